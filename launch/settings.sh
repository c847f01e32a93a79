# The targets source this file with their arguments. It reads the config and its overrides, and holds what all of them
# use: settings, dry runs, exit codes, flags.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=$(basename "$0" .sh)
dry_run=false
arguments=()
for argument in "$@"; do
  case $argument in
    --dry-run) dry_run=true ;;
    *) arguments+=("$argument") ;;
  esac
done

say() { echo "launch/run.sh $target: $*" >&2; }

refuse() {
  say "$*"
  exit 2
}

[ ${#arguments[@]} -gt 0 ] || refuse "usage: launch/run.sh $target CONFIG [--dotted.override value ...]"
config=${arguments[0]}
case $config in
  -*) refuse "usage: launch/run.sh $target CONFIG [--dotted.override value ...]" ;;
esac
[ -f "$config" ] || refuse "no config file $config; give a file such as configs/llama2_tiny.py"
# shellcheck disable=SC2034  # read by the targets
config_name=$(basename "$config" .py)

# need NAME "what it is, such as this": refuses when the setting is not in the environment.
need() {
  [ -n "${!1:-}" ] || refuse "set $1 in the environment: $2"
}

# run COMMAND...: in a dry run prints the command, else runs it.
run() {
  if $dry_run; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

# final CODE: whether another start would change nothing: the run is done, or was refused.
final() {
  case $1 in
    0 | 2 | 3 | 4 | 5) return 0 ;;
    *) return 1 ;;
  esac
}

# libtpu_flags GENERATION: prints its flags of tigerjax/plan/libtpu_flags/ on one line.
libtpu_flags() {
  local file=$root/tigerjax/plan/libtpu_flags/$1.txt
  [ -f "$file" ] || refuse "no flags for TPU generation $1; there are: $(cd "$root/tigerjax/plan/libtpu_flags" && echo *.txt)"
  sed 's/#.*//' "$file" | xargs
}

# config_in_image: prints the path of the config in the image, where the repository is the working folder.
config_in_image() {
  case $(realpath "$config") in
    "$root"/*) realpath --relative-to="$root" "$config" ;;
    *) refuse "$config is outside the repository, and the image holds only that; move it under configs/" ;;
  esac
}
