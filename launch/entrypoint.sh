#!/usr/bin/env bash
# The entry point of the image: mounts gs://$BUCKET at /gcs where nothing is mounted there yet, then runs tigerjax.
set -euo pipefail
if [ -n "${BUCKET:-}" ] && ! mountpoint -q /gcs; then
  gcsfuse --implicit-dirs "$BUCKET" /gcs # the image made the folder, and this user owns it
fi
exec tigerjax "$@"
