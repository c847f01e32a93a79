#!/usr/bin/env bash
# Runs a config on this machine, whatever devices it has.
#
#   launch/local.sh configs/llama2_tiny.py --optim.peak-lr 3e-4
#   launch/local.sh --dry-run configs/llama2_tiny.py      # prints the command and stops
set -euo pipefail

usage() {
  echo "usage: launch/local.sh [--dry-run] CONFIG [--dotted.override value ...]" >&2
  exit 2
}

dry_run=false
arguments=()
for argument in "$@"; do
  case $argument in
    --dry-run) dry_run=true ;;
    *) arguments+=("$argument") ;;
  esac
done
[ ${#arguments[@]} -gt 0 ] || usage

config=${arguments[0]}
case $config in
  -*) usage ;;
esac
if [ ! -f "$config" ]; then
  echo "launch/local.sh: no config file $config; the first argument is a file such as configs/llama2_tiny.py" >&2
  exit 2
fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tigerjax=$root/.venv/bin/tigerjax
command=("$tigerjax" train "${arguments[@]}")

if $dry_run; then
  printf '%q ' "${command[@]}"
  echo
  exit 0
fi
if [ ! -x "$tigerjax" ]; then
  echo "launch/local.sh: $tigerjax is not there; run \`make venv\` first" >&2
  exit 2
fi
# Huge pages for XLA's buffers, as in the Makefile.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
exec "${command[@]}"
