#!/usr/bin/env bash
# Trains a config here, on a pod or on a cluster, with one command, or serves a model (gke-serve).
#
#   launch/run.sh --list
#   launch/run.sh local configs/llama2_tiny.py --optim.peak-lr 3e-4
#   launch/run.sh --dry-run gke configs/tiger_70b_pretrain.py      # prints what it would do, and does nothing
#   launch/run.sh --dry-run gke-serve runs/tiger_7b_sft            # a path in the bucket, and options of tigerjax serve
#
# A target takes its settings (project, image, bucket, ...) from the environment, and names those that are missing.
# Exit codes are those of tigerjax. After 2 to 5 the run ends; after any other failure it is started again and resumes.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

list() {
  local script
  for script in "$here"/targets/*.sh; do
    printf '%-16s %s\n' "$(basename "$script" .sh)" "$(sed -n '2s/^# //p' "$script")"
  done
}

usage() {
  echo "usage: launch/run.sh [--list] [--dry-run] TARGET CONFIG [--dotted.override value ...]" >&2
  exit 2
}

dry_run=()
arguments=()
for argument in "$@"; do
  case $argument in
    --list)
      list
      exit 0
      ;;
    --dry-run) dry_run=(--dry-run) ;;
    *) arguments+=("$argument") ;;
  esac
done
[ ${#arguments[@]} -ge 1 ] || usage
target=${arguments[0]}
case $target in
  -*) usage ;;
esac
if [[ $target == */* ]] || [ ! -f "$here/targets/$target.sh" ]; then
  echo "launch/run.sh: no target $(printf %q "$target"); there are: $(list | cut -d' ' -f1 | paste -sd' ')" >&2
  exit 2
fi
exec bash "$here/targets/$target.sh" "${dry_run[@]}" "${arguments[@]:1}"
