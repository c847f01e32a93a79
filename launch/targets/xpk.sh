#!/usr/bin/env bash
# A workload of xpk, on a GKE cluster that xpk made.
#
# CLUSTER PROJECT ZONE          where
# TPU_TYPE                      such as v5p-128
# IMAGE                         built from launch/Dockerfile
# BUCKET                        with a hierarchical namespace; the image mounts it at /gcs
# JOB_NAME  (tigerjax-CONFIG)   SLICES (1)   RESTARTS (100)   GRACE_S (300)   PRIORITY (medium)
# LIBTPU_INIT_ARGS (tigerjax/plan/libtpu_flags/)  libtpu flags in place of those of the generation
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
SLICES=${SLICES:-1} RESTARTS=${RESTARTS:-100} GRACE_S=${GRACE_S:-300} PRIORITY=${PRIORITY:-medium}
form "[a-z]([a-z0-9-]{0,38}[a-z0-9])?" "a name of at most 40 small letters, digits and -, which begins with a letter" JOB_NAME
form "[a-z]([a-z0-9-]*[a-z0-9])?" "the name of a cluster (small letters, digits, -)" CLUSTER
form "$number" "a whole number from 1 on" SLICES
form "$number_or_0" "a whole number" RESTARTS GRACE_S
form "very-low|low|medium|high|very-high" "very-low, low, medium, high or very-high" PRIORITY
check_google
flags=$(libtpu_flags "$generation" "$SLICES")
find_in_image
check_run $((chips * SLICES)) $((hosts * SLICES)) "$SLICES"
command=(launch/entrypoint.sh train "$image_config" --out "/gcs/runs/$JOB_NAME" --hosts.find tpu "${arguments[@]:1}")
# xpk starts again after codes 42 and 127 to 255. 1 is added; after 2 to 5 another start would end the same way.
run xpk workload create --cluster="$CLUSTER" --project="$PROJECT" --zone="$ZONE" --workload="$JOB_NAME" \
  --tpu-type="$TPU_TYPE" --num-slices="$SLICES" --docker-image="$IMAGE" --command="$(quoted "${command[@]}")" \
  --env="BUCKET=$BUCKET" --env=JAX_COMPILATION_CACHE_DIR=/gcs/compiled --env="LIBTPU_INIT_ARGS=$flags" \
  --priority="$PRIORITY" --max-restarts="$RESTARTS" --restart-on-exit-codes=1 \
  --termination-grace-period-seconds="$GRACE_S"
