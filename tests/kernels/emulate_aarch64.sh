#!/usr/bin/env bash
# Runs tests as on a processor of ARM, which QEMU emulates: answers can be checked so, times cannot.
#
#     tests/kernels/emulate_aarch64.sh FOLDER PROCESSOR TESTS...
#
# PROCESSOR is one of QEMU's names: max has I8MM, cortex-a76 the dot product alone, a64fx neither. What comes after it is
# handed to pytest. The first run fills FOLDER with Debian's Python for arm64 and the wheels that the service needs there.
# This machine has to be Debian's, with its package qemu-user, and needs .venv; its own packages stay as they are.
set -euo pipefail

if [ $# -lt 3 ]; then sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; fi
command -v qemu-aarch64 >/dev/null || { echo "qemu-aarch64 is missing; install it: apt-get install qemu-user" >&2; exit 1; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
processor=$2
shift 2
cd "$(dirname "$0")/../.."
root=$folder/root

fetch_python() {  # with a state of apt's own, in which nothing is installed
  mkdir -p "$folder"/apt/{lists,archives}/partial "$root/usr/lib"
  touch "$folder/apt/status"
  local apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User=root
    -o Dir::State="$folder/apt" -o Dir::State::status="$folder/apt/status" -o Dir::Cache="$folder/apt")
  "${apt[@]}" update
  "${apt[@]}" install --yes --download-only --no-install-recommends python3 libstdc++6
  ln -sfn usr/lib "$root/lib"
  local package
  for package in "$folder"/apt/archives/*.deb; do dpkg-deb --extract "$package" "$root"; done
  # what libraries read of a processor, which QEMU before 8.1 leaves as it is here: that of a Cortex-A72
  mkdir -p "$root/proc"
  printf '%s\n' 'processor : 0' 'Features : fp asimd' 'CPU implementer : 0x41' 'CPU architecture: 8' 'CPU variant : 0x0' \
    'CPU part : 0xd08' 'CPU revision : 3' | sed 's/ *: /\t: /' >"$root/proc/cpuinfo"
  # under a name of its own, so that a process can start others like itself
  printf '#!/bin/sh\nexec qemu-aarch64 -L %s -0 "$0" %s "$@"\n' "'$root'" "'$root/usr/bin/python3'" >"$root/usr/bin/python"
  chmod +x "$root/usr/bin/python"
}

fetch_wheels() {  # PyTorch first and alone, as in the Makefile
  local version wheels=(--quiet --disable-pip-version-check --only-binary :all:)
  version=$(readlink "$root/usr/bin/python3")
  wheels+=(--python-version "${version#python}" --platform manylinux2014_aarch64)
  wheels+=($(printf -- '--platform manylinux_2_%s_aarch64 ' {28..17}))
  .venv/bin/python -m pip download "${wheels[@]}" --no-deps --dest "$folder/torch" \
    --extra-index-url "${TORCH_INDEX_URL:-https://download.pytorch.org/whl/cpu}" "$(grep ^torch== requirements.txt)"
  .venv/bin/python -m pip install "${wheels[@]}" --target "$folder/site" --upgrade --find-links "$folder/torch" \
    -r requirements.txt $(grep -oE '^(pytest|hypothesis)==\S+' requirements-dev.txt)
}

if [ ! -e "$folder/ready" ]; then
  fetch_python
  fetch_wheels
  touch "$folder/ready"
fi
export QEMU_CPU=$processor PYTHONPATH=$folder/site NUMBA_CACHE_DIR=$folder/kernels PYTHONDONTWRITEBYTECODE=1
"$root/usr/bin/python" -m service compile  # takes minutes the first time, which no test waits for
exec "$root/usr/bin/python" -m pytest "$@"
