#!/usr/bin/env bash
# Cloud TPU VMs by queued resource: create, wait, run on all workers, again after a preemption, delete.
#
# PROJECT ZONE                 where
# TPU_TYPE                     accelerator type, such as v5p-128 (v4 and v5p count TensorCores, so it has 64 chips)
# IMAGE                        built from launch/Dockerfile, in a registry that the VMs can read
# BUCKET                       with a hierarchical namespace, where a folder can be renamed at once; mounted at /gcs
# TPU_NAME  (tigerjax-CONFIG)  of the queued resource; the run is /gcs/runs/TPU_NAME
# RUNTIME   (by generation)    TPU software version
# SLICES    (1)                more than one is a multi-slice run
# SPOT      (false)            true: cheaper, and taken away at any time
# RESTARTS  (100)              starts after a preemption or a lost host
# POLL_S    (30)               between two looks at the queue
# KEEP      (false)            true: the VMs are not deleted when the run has ended, and go on to cost
# LIBTPU_INIT_ARGS (tigerjax/plan/libtpu_flags/)  libtpu flags in place of those of the generation
set -euo pipefail
# shellcheck source=launch/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/../settings.sh" "$@"

need PROJECT "the Google Cloud project"
need ZONE "a zone that has this TPU, such as us-east5-a"
need TPU_TYPE "the accelerator type, such as v5p-128"
need IMAGE "the image of launch/Dockerfile, such as us-docker.pkg.dev/PROJECT/tigerjax/train:1"
need BUCKET "the bucket of data and runs, with a hierarchical namespace, without gs://"
TPU_NAME=${TPU_NAME:-tigerjax-${config_name//_/-}}
SLICES=${SLICES:-1} SPOT=${SPOT:-false} RESTARTS=${RESTARTS:-100} POLL_S=${POLL_S:-30} KEEP=${KEEP:-false}
form "[a-z]([a-z0-9-]{0,61}[a-z0-9])?" "a name of at most 63 small letters, digits and -, which begins with a letter" TPU_NAME
form "$number" "a whole number from 1 on" SLICES
form "$number_or_0" "a whole number" RESTARTS POLL_S
form "true|false" "true or false" SPOT KEEP
check_google
case $TPU_TYPE in
  v4-*) runtime=tpu-ubuntu2204-base ;;
  v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
  v5p-*) runtime=v2-alpha-tpuv5 ;;
  v6e-*) runtime=v2-alpha-tpuv6e ;;
esac
RUNTIME=${RUNTIME:-$runtime}
form "[a-z0-9][a-z0-9._-]*" "a TPU software version, such as v2-alpha-tpuv5" RUNTIME
UNANSWERED=10 # looks at the queue without an answer, before it is given up
flags=$(libtpu_flags "$generation" "$SLICES")
find_in_image
check_run $((chips * SLICES)) $((hosts * SLICES)) "$SLICES"
where=(--project="$PROJECT" --zone="$ZONE")

# state: that of the queued resource, or ABSENT where Google says that there is none. Any other refusal (login, network,
# rights) is not an answer: what is there may run, and cost. It is shown, and the state is UNKNOWN.
state() {
  local errors
  errors=$(mktemp)
  if ! gcloud compute tpus queued-resources describe "$TPU_NAME" "${where[@]}" --format='value(state.state)' 2>"$errors"; then
    if grep -q NOT_FOUND "$errors"; then
      echo ABSENT
    else
      cat "$errors" >&2
      echo UNKNOWN
    fi
  fi
  rm -f "$errors"
}

create() {
  local nodes=(--node-id="$TPU_NAME") tier=()
  [ "$SLICES" -eq 1 ] || nodes=(--node-count="$SLICES" --node-prefix="$TPU_NAME")
  if [ "$SPOT" = true ]; then tier=(--spot); fi
  run gcloud compute tpus queued-resources create "$TPU_NAME" "${where[@]}" "${nodes[@]}" \
    --accelerator-type="$TPU_TYPE" --runtime-version="$RUNTIME" "${tier[@]}"
}

delete() { run gcloud compute tpus queued-resources delete "$TPU_NAME" "${where[@]}" --force --quiet; }

# What every worker runs. Docker stops the run with SIGTERM and waits 300 s for its checkpoint.
train=(sudo docker run --rm --name=tigerjax --privileged --net=host --stop-timeout=300
  --env=BUCKET="$BUCKET" --env=JAX_COMPILATION_CACHE_DIR="/gcs/compiled" --env=LIBTPU_INIT_ARGS="$flags"
  "$IMAGE" train "$image_config" --out "/gcs/runs/$TPU_NAME" --hosts.find tpu "${arguments[@]:1}")
# The image's user is not root: the VM, which has no other user, opens its chips to it.
devices="sudo find /dev -maxdepth 2 \( -path '/dev/accel*' -o -path '/dev/vfio/*' \) -exec chmod a+rw {} +"
on_worker="$devices; sudo gcloud auth configure-docker ${IMAGE%%/*} --quiet >/dev/null 2>&1; sudo docker rm -f tigerjax >/dev/null 2>&1; $(quoted "${train[@]}"); echo \"tigerjax-exit \$?\""

# on_all_workers: returns the exit code of the run: the first one that is not 0, or 1 when no worker printed one.
on_all_workers() {
  local slice log code=0
  log=$(mktemp)
  for ((slice = 0; slice < SLICES; slice++)); do
    local node=$TPU_NAME
    [ "$SLICES" -eq 1 ] || node=$TPU_NAME-$slice
    run gcloud compute tpus tpu-vm ssh "$node" "${where[@]}" --worker=all --command="$on_worker" 2>&1 | tee -a "$log" &
  done
  wait
  if ! $dry_run; then
    code=$(sed -n 's/.*tigerjax-exit \([0-9]*\).*/\1/p' "$log" | awk '$1 != 0 && !c {c = $1} END {print NR ? c + 0 : 1}')
  fi
  rm -f "$log"
  return "$code"
}

if $dry_run; then
  create
  run gcloud compute tpus queued-resources describe "$TPU_NAME" "${where[@]}" --format='value(state.state)'
  on_all_workers
  [ "$KEEP" = true ] || delete
  exit 0
fi

finish() { # CODE
  [ "$KEEP" = true ] || delete || say "could not delete $TPU_NAME: it goes on to cost; delete it by hand"
  exit "$1"
}

starts=0 before='' unknown=0
while true; do
  now=$(state)
  [ "$now" = "$before" ] || say "$TPU_NAME is $now"
  if [ "$now" = UNKNOWN ]; then unknown=$((unknown + 1)); else unknown=0; fi
  # A refusal of the first look is one of login or rights.
  if [ "$unknown" -gt "$UNANSWERED" ] || { [ "$unknown" -gt 0 ] && [ -z "$before" ]; }; then
    say "Google does not say how $TPU_NAME is (see the line above); if it is there, it goes on to cost. The same command" \
      "goes on with it"
    exit 1
  fi
  before=$now
  case $now in
    ABSENT)
      create || { say "the queued resource was refused (quota, zone or type; see the line above)" && exit 1; }
      sleep "$POLL_S"
      ;;
    ACTIVE)
      code=0
      on_all_workers || code=$?
      if final "$code"; then finish "$code"; fi
      starts=$((starts + 1))
      if [ "$starts" -gt "$RESTARTS" ]; then
        say "the run ended with $code after $starts starts; RESTARTS=$RESTARTS"
        finish "$code"
      fi
      say "the run ended with $code; it resumes from its last checkpoint"
      sleep "$POLL_S"
      ;;
    SUSPENDING | SUSPENDED | FAILED)
      starts=$((starts + 1))
      if [ "$starts" -gt "$RESTARTS" ]; then
        say "given up after $starts starts; RESTARTS=$RESTARTS"
        finish 1
      fi
      delete || true
      sleep "$POLL_S"
      ;;
    *) sleep "$POLL_S" ;; # WAITING_FOR_RESOURCES, PROVISIONING, CREATING, DELETING, ...
  esac
done
