# What the targets of Kubernetes share: text in YAML, the words of a container, and TPUs by GKE's names. They source this
# file after settings.sh.
# shellcheck shell=bash

# string TEXT: as a JSON string, which is a YAML string too. Nothing in it may end a line of YAML: control characters, NEL
# and the separators of lines and paragraphs are escaped.
shopt -u patsub_replacement 2>/dev/null || true # bash 5.2: & and \ would mean something in replacements
string() {
  local LC_ALL=C text=$1 code escape character
  text=${text//\\/\\\\} text=${text//\"/\\\"}
  if [[ $text =~ [^\ -~] ]]; then # rare, and slow
    for ((code = 1; code < 32; code++)); do
      printf -v escape '\\u%04x' "$code"
      printf -v character "\\x${escape: -2}"
      text=${text//"$character"/"$escape"}
    done
    text=${text//$'\x7f'/\\u007f}
    for ((code = 128; code < 160; code++)); do
      printf -v escape '\\u%04x' "$code"
      printf -v character "\\xc2\\x${escape: -2}"
      text=${text//"$character"/"$escape"}
    done
  fi
  text=${text//$'\xe2\x80\xa8'/\\u2028} text=${text//$'\xe2\x80\xa9'/\\u2029} text=${text//$'\xef\xbb\xbf'/\\ufeff}
  printf '"%s"' "$text"
}

# container_words WORD...: sets words, the words of a container's command as a list of YAML. Kubernetes replaces $(NAME) in
# them by a variable of the container, and $$ by $.
container_words() {
  local word dollars='$$'
  words=
  for word in "$@"; do
    iconv -f UTF-8 -t UTF-8 <<<"$word" >/dev/null 2>&1 || refuse "$(printable "$word") is not UTF-8, as YAML must be; change it"
    words+="${words:+, }$(string "${word//\$/$dollars}")"
  done
}

# read_topology: the form of TPU; sets generation, topology, the chips of a slice, and accelerator, GKE's name for it.
read_topology() {
  form "[a-z0-9]+:[1-9][0-9]{0,3}(x[1-9][0-9]{0,3}){1,2}" "GENERATION:TOPOLOGY, such as v5p:4x4x4" TPU
  generation=${TPU%%:*} topology=${TPU#*:}
  case $generation in
    v4) accelerator=tpu-v4-podslice ;;
    v5e) accelerator=tpu-v5-lite-podslice ;;
    v5p) accelerator=tpu-v5p-slice ;;
    v6e) accelerator=tpu-v6e-slice ;;
    tpu7x) accelerator=tpu7x ;; # its node pools need a workload policy, which is made with the pool
    *) refuse "TPU=$TPU is not GENERATION:TOPOLOGY with a generation of v4, v5e, v5p, v6e, tpu7x" ;;
  esac
  # shellcheck disable=SC2034  # read by the targets
  chips=$((${topology//x/*}))
}
