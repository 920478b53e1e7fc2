#!/bin/sh
# Starts Grafana (the command that is given) with the administrator's password: from the file GRAFANA_PASSWORD_FILE, else
# from GF_SECURITY_ADMIN_PASSWORD, else one that is generated once and kept beside Grafana's data for its owner alone.
set -eu
given=$(cat "$GRAFANA_PASSWORD_FILE")
kept=$GF_PATHS_DATA/admin_password
if [ -n "$given" ]; then
  GF_SECURITY_ADMIN_PASSWORD=$given
elif [ -z "${GF_SECURITY_ADMIN_PASSWORD:-}" ]; then
  [ -s "$kept" ] || (umask 077 && head -c 24 /dev/urandom | base64 > "$kept")
  GF_SECURITY_ADMIN_PASSWORD=$(cat "$kept")
fi
export GF_SECURITY_ADMIN_PASSWORD
exec "$@"
