#!/bin/sh
# Runs a command with the kernels that were compiled when the image was built. numba uses a folder of them only if it may
# write there, and the image's own may be read-only: so it gets a copy, into which it compiles anew on another processor.
set -eu
if ! mkdir -p "$NUMBA_CACHE_DIR" || ! cp -r /app/kernels/. "$NUMBA_CACHE_DIR"; then
  echo "NUMBA_CACHE_DIR=$NUMBA_CACHE_DIR cannot be written to; with a read-only root, mount something there (--tmpfs /tmp)" >&2
  exit 2
fi
exec "$@"
