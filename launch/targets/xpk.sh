#!/usr/bin/env bash
# A workload of xpk, on a GKE cluster that xpk made.
#
# CLUSTER PROJECT ZONE          where
# TPU_TYPE                      such as v5p-128
# IMAGE                         built from launch/Dockerfile
# BUCKET                        with a hierarchical namespace; the image mounts it at /gcs
# JOB_NAME  (tigerjax-CONFIG)   SLICES (1)   RESTARTS (100)   GRACE_S (300)   PRIORITY (medium)
set -euo pipefail
# shellcheck source=launch/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/../settings.sh" "$@"

need CLUSTER "the name that xpk cluster create was given"
need PROJECT "the Google Cloud project"
need ZONE "the zone of the cluster"
need TPU_TYPE "the accelerator type, such as v5p-128"
need IMAGE "the image of launch/Dockerfile, such as us-docker.pkg.dev/PROJECT/tigerjax/train:1"
need BUCKET "the bucket of data and runs, with a hierarchical namespace, without gs://"
JOB_NAME=${JOB_NAME:-tigerjax-${config_name//_/-}}
case $TPU_TYPE in
  v4-*) generation=v4 ;;
  v5litepod-*) generation=v5e ;;
  v5p-*) generation=v5p ;;
  v6e-*) generation=v6e ;;
  *) refuse "TPU_TYPE=$TPU_TYPE is none of v4-N, v5litepod-N, v5p-N, v6e-N" ;;
esac
command=(launch/entrypoint.sh train "$(config_in_image)" --out "/gcs/runs/$JOB_NAME" --hosts.find tpu "${arguments[@]:1}")
# After exit codes 2 to 5 another start would end the same way. xpk would start again after any failure, so it is told
# success; the reason is in the log.
inside="$(printf '%q ' "${command[@]}") || { code=\$?; [ \$code -ge 2 ] && [ \$code -le 5 ] && exit 0; exit \$code; }"

run xpk workload create --cluster="$CLUSTER" --project="$PROJECT" --zone="$ZONE" --workload="$JOB_NAME" \
  --tpu-type="$TPU_TYPE" --num-slices="${SLICES:-1}" --docker-image="$IMAGE" --command="$inside" \
  --env="BUCKET=$BUCKET" --env=JAX_COMPILATION_CACHE_DIR=/gcs/compiled --env="LIBTPU_INIT_ARGS=$(libtpu_flags "$generation")" \
  --priority="${PRIORITY:-medium}" --max-restarts="${RESTARTS:-100}" --restart-on-user-code-failure \
  --termination-grace-period-seconds="${GRACE_S:-300}"
