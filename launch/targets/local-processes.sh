#!/usr/bin/env bash
# This machine, PROCESSES processes (2) with DEVICES fake CPU devices each (2); started again RESTARTS (0) times.
set -euo pipefail
# shellcheck source=launch/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/../settings.sh" "$@"

PROCESSES=${PROCESSES:-2} DEVICES=${DEVICES:-2} RESTARTS=${RESTARTS:-0} PORT=${PORT:-} LOGS=${LOGS:-}
form "$number" "a whole number from 1 on" PROCESSES DEVICES
form "$number_or_0" "a whole number" RESTARTS
[ -z "$PORT" ] || form "[1-9][0-9]{0,4}" "a port" PORT
command=("$tigerjax" train "${arguments[@]}")
if ! $dry_run && [ ! -x "${command[0]}" ]; then
  refuse "${command[0]} is not there; run \`make venv\` first"
fi
if $dry_run; then check_run $((PROCESSES * DEVICES)) "$PROCESSES" 1; fi
export JAX_PLATFORMS=cpu JAX_NUM_PROCESSES=$PROCESSES
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$DEVICES"

pids=() stopped=false
stop() {
  stopped=true
  for pid in "${pids[@]}"; do kill "-$1" "$pid" 2>/dev/null || true; done
}
trap 'stop INT' INT
trap 'stop TERM' TERM

# once: starts all processes and waits for them; returns the code of the first one, by number, that failed, or 0.
once() {
  local process pid code=0 one port=$PORT
  [ -n "$port" ] || port=$((20000 + RANDOM % 20000))
  export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port
  if $dry_run; then
    for ((process = 0; process < PROCESSES; process++)); do
      printf 'JAX_PROCESS_ID=%s JAX_NUM_PROCESSES=%s JAX_COORDINATOR_ADDRESS=%s ' "$process" "$PROCESSES" "127.0.0.1:${PORT:-PORT}"
      run "${command[@]}"
    done
    return 0
  fi
  pids=()
  for ((process = 0; process < PROCESSES; process++)); do
    JAX_PROCESS_ID=$process "${command[@]}" > >(sed -u "s/^/[$process] /" | tee -a -- "${LOGS:-/dev/null}") 2>&1 &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do
    one=0
    wait "$pid" || one=$?
    while kill -0 "$pid" 2>/dev/null; do # a signal ends `wait`, not the process: it saves first
      one=0
      wait "$pid" || one=$?
    done
    [ "$one" -eq 0 ] || [ "$code" -ne 0 ] || code=$one
  done
  return "$code"
}

for ((start = 0; ; start++)); do
  code=0
  once || code=$?
  if final "$code" || $stopped || [ "$start" -ge "$RESTARTS" ]; then exit "$code"; fi
  say "ended with $code; start $((start + 2)) of at most $((RESTARTS + 1))"
done
