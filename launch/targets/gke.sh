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
# LIBTPU_INIT_ARGS (tigerjax/plan/libtpu_flags/)  libtpu flags in place of those of the generation
set -euo pipefail
# shellcheck source=launch/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/../settings.sh" "$@"
# shellcheck source=launch/kubernetes.sh
source "$root/launch/kubernetes.sh"

need IMAGE "the image of launch/Dockerfile, such as us-docker.pkg.dev/PROJECT/tigerjax/train:1"
need BUCKET "the bucket of data and runs, with a hierarchical namespace, without gs://"
need TPU "generation and topology of a slice, such as v5p:4x4x4"
JOB_NAME=${JOB_NAME:-tigerjax-${config_name//_/-}}
SLICES=${SLICES:-1} QUEUE=${QUEUE:-} SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-default} GRACE_S=${GRACE_S:-300} RESTARTS=${RESTARTS:-100}
form "[a-z]([a-z0-9-]{0,38}[a-z0-9])?" "a name of at most 40 small letters, digits and -, which begins with a letter" JOB_NAME
form "$number" "a whole number from 1 on" SLICES
form "$number_or_0" "a whole number" GRACE_S RESTARTS
form "$image" "the name of an image, such as us-docker.pkg.dev/PROJECT/tigerjax/train:1" IMAGE
form "$bucket" "the name of a bucket, without gs://" BUCKET
form "$label" "a name of Kubernetes (small letters, digits, -)" SERVICE_ACCOUNT
[ -z "$QUEUE" ] || form "$label" "a name of Kubernetes (small letters, digits, -)" QUEUE
read_topology
chips_per_host=$((chips < 4 ? chips : 4))
hosts=$((chips / chips_per_host))
((hosts * chips_per_host == chips)) || refuse "TPU=$TPU has $chips chips, which do not fill hosts of 4"

case $generation in
  tpu7x) devices_per_chip=2 ;; # JAX shows each of its two cores
  *) devices_per_chip=1 ;;
esac
find_in_image
check_run $((chips * devices_per_chip * SLICES)) $((hosts * SLICES)) "$SLICES"

container_words train "$image_config" --out "/gcs/runs/$JOB_NAME" --hosts.find tpu "${arguments[@]:1}"
flags=$(libtpu_flags "$generation" "$SLICES")
labels=
if [ -n "$QUEUE" ]; then labels=$'\n  labels:\n    kueue.x-k8s.io/queue-name: '$(string "$QUEUE"); fi

manifest() {
  cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $(string "$JOB_NAME")$labels
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
              securityContext: # the image's user, to whom the bucket is mounted too
                runAsNonRoot: true
                runAsUser: 1000
                runAsGroup: 1000
                fsGroup: 1000
              serviceAccountName: $(string "$SERVICE_ACCOUNT")
              terminationGracePeriodSeconds: $GRACE_S
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $accelerator
                cloud.google.com/gke-tpu-topology: $topology
              containers:
                - name: tigerjax
                  image: $(string "$IMAGE")
                  args: [$words]
                  env:
                    - name: LIBTPU_INIT_ARGS
                      value: $(string "$flags")
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
                      bucketName: $(string "$BUCKET")
                      mountOptions: implicit-dirs,uid=1000,gid=1000
YAML
}

if $dry_run; then
  echo "# kubectl apply -f - <<YAML"
  manifest
  exit 0
fi
manifest | kubectl apply -f -
say "follow it: kubectl logs -f -l jobset.sigs.k8s.io/jobset-name=$JOB_NAME; stop it: kubectl delete jobset $JOB_NAME"
