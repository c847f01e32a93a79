#!/usr/bin/env bash
# This machine, one process, whatever devices it has.
set -euo pipefail
# shellcheck source=launch/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/../settings.sh" "$@"

if ! $dry_run && [ ! -x "$tigerjax" ]; then
  refuse "$tigerjax is not there; run \`make venv\` first"
fi
# Huge pages for XLA's buffers, as in the Makefile.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
if $dry_run; then
  check_run "" 1 1
  run "$tigerjax" train "${arguments[@]}"
else
  exec "$tigerjax" train "${arguments[@]}" # no shell in between: a signal is tigerjax's
fi
