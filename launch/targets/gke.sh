#!/usr/bin/env bash
# A JobSet on GKE, one slice or several: restarts by itself, stops for good on exit codes 2 to 5.
#
# IMAGE                         built from launch/Dockerfile, in a registry that the cluster can read
# BUCKET                        with a hierarchical namespace; mounted at /gcs by the Cloud Storage FUSE driver
# TPU                           generation and topology, such as v5p:4x4x4
# JOB_NAME   (tigerjax-CONFIG)  the run is /gcs/runs/JOB_NAME
# SLICES     (1)                more than one is a multi-slice run
# QUEUE      (none)             Kueue's local queue
# SERVICE_ACCOUNT (default)     of Kubernetes, allowed to read and write the bucket
# GRACE_S    (300)              between SIGTERM and SIGKILL: three steps and a checkpoint must fit
# RESTARTS   (100)
set -euo pipefail
# shellcheck source=launch/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/../settings.sh" "$@"

need IMAGE "the image of launch/Dockerfile, such as us-docker.pkg.dev/PROJECT/tigerjax/train:1"
need BUCKET "the bucket of data and runs, with a hierarchical namespace, without gs://"
need TPU "generation and topology of a slice, such as v5p:4x4x4"
JOB_NAME=${JOB_NAME:-tigerjax-${config_name//_/-}}
SLICES=${SLICES:-1} QUEUE=${QUEUE:-} SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-default} GRACE_S=${GRACE_S:-300} RESTARTS=${RESTARTS:-100}
generation=${TPU%%:*} topology=${TPU#*:}
case $generation in
  v4) accelerator=tpu-v4-podslice ;;
  v5e) accelerator=tpu-v5-lite-podslice ;;
  v5p) accelerator=tpu-v5p-slice ;;
  v6e) accelerator=tpu-v6e-slice ;;
  tpu7x) accelerator=tpu7x ;; # its node pools need a workload policy, which is made with the pool
  *) refuse "TPU=$TPU is not GENERATION:TOPOLOGY with a generation of v4, v5e, v5p, v6e, tpu7x" ;;
esac
[[ $topology =~ ^[0-9]+x[0-9]+(x[0-9]+)?$ ]] || refuse "TPU=$TPU is not GENERATION:TOPOLOGY, such as v5p:4x4x4"
chips=$((${topology//x/*}))
chips_per_host=$((chips < 4 ? chips : 4))
hosts=$((chips / chips_per_host))
((hosts * chips_per_host == chips)) || refuse "TPU=$TPU has $chips chips, which do not fill hosts of 4"

# quoted TEXT: as a JSON string, which is a YAML string too.
quoted() {
  local text=${1//\\/\\\\}
  printf '"%s"' "${text//\"/\\\"}"
}

args=
for word in train "$(config_in_image)" --out "/gcs/runs/$JOB_NAME" --hosts.find tpu "${arguments[@]:1}"; do
  args+="${args:+, }$(quoted "$word")"
done
flags=$(libtpu_flags "$generation")
labels=
if [ -n "$QUEUE" ]; then labels=$'\n  labels:\n    kueue.x-k8s.io/queue-name: '$(quoted "$QUEUE"); fi

manifest() {
  cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $(quoted "$JOB_NAME")$labels
  annotations:
    # Each slice has a node pool of its own: when a host is lost, its whole slice is replaced.
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $RESTARTS
    rules:
      - name: final
        action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: $SLICES
      template:
        spec:
          parallelism: $hosts
          completions: $hosts
          completionMode: Indexed
          backoffLimit: 0
          podFailurePolicy:
            rules:
              # Bad config, bad data, missing labels, failed gate: another start would end the same way.
              - action: FailJob
                onExitCodes:
                  containerName: tigerjax
                  operator: In
                  values: [2, 3, 4, 5]
          template:
            metadata:
              annotations:
                gke-gcsfuse/volumes: "true"
            spec:
              restartPolicy: Never
              serviceAccountName: $(quoted "$SERVICE_ACCOUNT")
              terminationGracePeriodSeconds: $GRACE_S
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $accelerator
                cloud.google.com/gke-tpu-topology: $topology
              containers:
                - name: tigerjax
                  image: $(quoted "$IMAGE")
                  args: [$args]
                  env:
                    - name: LIBTPU_INIT_ARGS
                      value: $(quoted "$flags")
                    - name: JAX_COMPILATION_CACHE_DIR
                      value: /gcs/compiled
                  ports:
                    - containerPort: 8471 # libtpu
                    - containerPort: 8482 # JAX's coordinator
                  resources:
                    requests:
                      google.com/tpu: $chips_per_host
                    limits:
                      google.com/tpu: $chips_per_host
                  volumeMounts:
                    - name: bucket
                      mountPath: /gcs
              volumes:
                - name: bucket
                  csi:
                    driver: gcsfuse.csi.storage.gke.io
                    volumeAttributes:
                      bucketName: $(quoted "$BUCKET")
                      mountOptions: implicit-dirs
YAML
}

if $dry_run; then
  echo "# kubectl apply -f - <<YAML"
  manifest
  exit 0
fi
manifest | kubectl apply -f -
say "follow it: kubectl logs -f -l jobset.sigs.k8s.io/jobset-name=$JOB_NAME; stop it: kubectl delete jobset $JOB_NAME"
