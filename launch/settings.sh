# The targets source this file with their arguments. It reads the config and its overrides, and holds what all of them
# use: settings and their forms, dry runs, the check of the config, exit codes, flags. A target that takes something else
# than a config sets `takes` before; that word is then in `config`, and not checked here.
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

say() { printf 'launch/run.sh %s: %s\n' "$target" "$*" >&2; }

refuse() {
  say "$*"
  exit 2
}

# printable TEXT: as it is where it has only visible characters of ASCII, else quoted, so that it stays on its line.
printable() {
  local LC_ALL=C
  if [[ $1 =~ ^[[:graph:]\ ]*$ ]]; then printf '%s' "$1"; else printf '%q' "$1"; fi
}

takes=${takes:-CONFIG}
[ ${#arguments[@]} -gt 0 ] || refuse "usage: launch/run.sh $target $takes [--dotted.override value ...]"
config=${arguments[0]}
case $config in
  -*) refuse "usage: launch/run.sh $target $takes [--dotted.override value ...]" ;;
esac
[ "$takes" != CONFIG ] || [ -f "$config" ] || refuse "no config file $(printable "$config"); give a file such as configs/llama2_tiny.py"
tigerjax=${TIGERJAX:-$root/.venv/bin/tigerjax}
case $tigerjax in /*) ;; *) tigerjax=$PWD/$tigerjax ;; esac
# shellcheck disable=SC2034  # read by the targets
config_name=$(basename "$config" .py)

# need NAME "what it is, such as this": refuses when the setting is not in the environment.
need() {
  [ -n "${!1:-}" ] || refuse "set $1 in the environment: $2"
}

# form PATTERN "what is needed" NAME...: refuses a setting that does not have this form as a whole. What comes from the
# environment goes into scripts, manifests and arithmetic, so each setting with a form is checked before it is used.
form() {
  local LC_ALL=C pattern=$1 needed=$2 name # in other locales [a-z] may hold more than these letters
  shift 2
  for name in "$@"; do
    [[ ${!name} =~ ^($pattern)$ ]] || refuse "$name=$(printable "${!name}") is not $needed; change $name"
  done
}
number='[1-9][0-9]{0,8}' number_or_0='0|[1-9][0-9]{0,8}' # whole numbers; a 0 in front would mean octal
label='[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?'              # one word of Kubernetes
project='[a-z][a-z0-9.:-]*[a-z0-9]' zone='[a-z0-9]+(-[a-z0-9]+)+'
image='[A-Za-z0-9][A-Za-z0-9._/:@-]*'
bucket='[a-z0-9][a-z0-9._-]*[a-z0-9]'

# quoted WORD...: as words of a line of bash. What is not ASCII is written in escapes, so that no reader of the line on its
# way to bash (YAML, ssh) takes a character for the end of a line.
quoted() {
  local LC_ALL=C
  printf '%q ' "$@"
}

# run COMMAND...: in a dry run prints the command, else runs it.
run() {
  if $dry_run; then
    quoted "$@"
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

# libtpu_flags GENERATION [SLICES]: prints LIBTPU_INIT_ARGS of the environment, such as a line of `tigerjax plan --search`;
# without it the generation's flags of tigerjax/plan/libtpu_flags/ on one line, and with them those of several slices.
libtpu_flags() {
  if [ -n "${LIBTPU_INIT_ARGS:-}" ]; then
    local flag='--[a-z0-9_]+=[A-Za-z0-9_.,:/+-]+'
    form "$flag( +$flag)*" "flags of libtpu, such as --xla_tpu_scoped_vmem_limit_kib=32768" LIBTPU_INIT_ARGS
    say "the libtpu flags are those of LIBTPU_INIT_ARGS, not those of tigerjax/plan/libtpu_flags/$1.txt"
    printf '%s' "$LIBTPU_INIT_ARGS"
    return
  fi
  local folder=$root/tigerjax/plan/libtpu_flags
  local files=("$folder/$1.txt")
  [ -f "${files[0]}" ] || refuse "no flags for TPU generation $1; there are: $(cd "$folder" && echo [tv]*.txt)"
  [ "${2:-1}" -eq 1 ] || files+=("$folder/several_slices.txt")
  sed 's/#.*//' "${files[@]}" | xargs
}

# check_google: the form of the settings of Google Cloud's targets; sets generation, and chips and hosts of a slice.
check_google() {
  form "$project" "the id of a project of Google Cloud" PROJECT
  form "$zone" "a zone of Google Cloud, such as us-east5-a" ZONE
  form "$image" "the name of an image, such as us-docker.pkg.dev/PROJECT/tigerjax/train:1" IMAGE
  form "$bucket" "the name of a bucket, without gs://" BUCKET
  form "(v4|v5litepod|v5p|v6e)-[1-9][0-9]{0,5}" "one of v4-N, v5litepod-N, v5p-N, v6e-N" TPU_TYPE
  chips=${TPU_TYPE##*-} generation=${TPU_TYPE%%-*}
  case $generation in
    v4 | v5p) # Their names count TensorCores, of which a chip has two.
      ((chips % 2 == 0)) || refuse "TPU_TYPE=$TPU_TYPE is not $generation-N with an even N, the number of TensorCores"
      chips=$((chips / 2))
      ;;
    v5litepod) generation=v5e ;;
  esac
  # shellcheck disable=SC2034  # read by the targets
  hosts=$(((chips + 3) / 4))
  case $generation in
    v5e | v6e) if [ "$chips" -le 8 ]; then hosts=1; fi ;;
  esac
}

# find_in_image: sets image_config, the path of the config in the image, where the repository is the working folder.
# Like `need` it must be called by itself: a refusal inside "$(...)" would not end the script.
find_in_image() {
  image_config=$(realpath -- "$config")
  case $image_config in
    "$root"/*) image_config=${image_config#"$root"/} ;;
    *) refuse "$(printable "$config") is outside the repository, and the image holds only that; move it under configs/" ;;
  esac
  case $image_config in
    -*) refuse "$(printable "$config") would be taken for an option; give it another name" ;;
  esac
}

# check_run DEVICES PROCESSES SLICES: loads the config with its overrides, as the run will do, and refuses it with
# tigerjax's own line and code. Then compares its mesh with the devices of the target. DEVICES is empty where they are not
# known before the run. A config for the image is loaded as there: in the repository's folder. The checkpoint that such
# a run starts from lies on other machines, so it is not looked for here.
check_run() {
  local lines line folder=$PWD path=$config elsewhere=()
  data= copies=
  if [ ! -x "$tigerjax" ]; then
    say "note: the config was not checked, because $tigerjax is not there; run \`make venv\` first"
    return
  fi
  if [ -n "${image_config:-}" ]; then folder=$root path=$image_config elsewhere=(--checkpoint.init-from None); fi
  lines=$(cd -- "$folder" && "$tigerjax" train "$path" "${arguments[@]:1}" "${elsewhere[@]}" --dry-run) || exit $?
  product=1 data=1 least_data=None micro_batches=1
  while IFS= read -r line; do
    if [[ $line =~ ^mesh\.([a-z]+)\ =\ ([1-9][0-9]*)$ ]]; then
      product=$((product * BASH_REMATCH[2]))
      if [ "${BASH_REMATCH[1]}" = data ]; then data=${BASH_REMATCH[2]}; fi
    elif [[ $line =~ ^mesh\.least_data\ =\ ([0-9]+)$ ]]; then
      least_data=${BASH_REMATCH[1]}
    elif [[ $line =~ ^optim\.gradient_accumulation_steps\ =\ ([0-9]+)$ ]]; then
      micro_batches=${BASH_REMATCH[1]}
    fi
  done <<<"$lines"
  # A single process may leave devices unused when no degree of the mesh is more than 1.
  if [ -z "$1" ] || { [ "$product" -eq 1 ] && [ "$2" -eq 1 ]; }; then return; fi
  if [ "$product" -gt "$1" ] && [ "$least_data" != None ]; then check_fewer "$1" "this target"; fi
  [ -n "$copies" ] || [ "$product" -eq "$1" ] || refuse "the mesh of $(printable "$path") has $product devices, but this target has $1; change a" \
    "degree of the mesh, such as --mesh.fsdp, or the size of the target"
  ((${copies:-$data} % $3 == 0)) || refuse "mesh.data=${copies:-$data} is not a multiple of SLICES=$3, over which it is split; change one"
}

# check_fewer DEVICES WHAT: after check_run, refuses a start with so many devices where `tigerjax train` would: fewer copies
# of the model than mesh.least_data, or a number of them that does not divide the micro-batches. Sets copies.
check_fewer() {
  [ -n "$data" ] || return 0 # nothing was checked
  local of_copy=$((product / data))
  [ "$least_data" != None ] || refuse "$2 has $1 devices, fewer than the mesh; add --mesh.least-data, or change the size"
  ((copies = $1 / of_copy, $1 % of_copy == 0)) || refuse "$2 has $1 devices, which are no whole copies of $of_copy; change one"
  ((copies >= least_data)) || refuse "$2 has $copies of $data copies of the model, fewer than mesh.least_data=$least_data; change one"
  ((micro_batches * data % copies == 0)) || refuse "$2 has $copies of $data copies of the model, which cannot share" \
    "$data x optim.gradient_accumulation_steps=$micro_batches micro-batches equally; change one"
}
