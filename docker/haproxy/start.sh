#!/bin/sh
# Starts HAProxy in front of the replicas, once everything is there that makes them one fleet.
set -eu
refuse() { echo "$1" >&2; exit 2; }
[ -s "$FRONT_CERTIFICATE" ] || refuse "FRONT_CERTIFICATE_FILE names no file with a certificate and its key; docs/deployment.md says how to make one"
[ -n "${HAS_POLICY_STORE:-}" ] || refuse "NER_POLICY_STORE is unset, so each replica would have an exit policy of its own; start with --env-file docker/fleet.env"
[ -n "${HAS_ADMIN_KEY:-}" ] || refuse "NER_ADMIN_KEY and NER_ADMIN_KEY_FILE are unset, so each replica would make an admin key of its own; set one of them"
exec "$@"
