#!/usr/bin/env bash
# A model behind a Service on GKE, by tigerjax serve on the TPU chips of one host; takes MODEL, a path in the bucket.
#
# IMAGE                         built from launch/Dockerfile, in a registry that the cluster can read
# BUCKET                        with the model; mounted at /gcs by the Cloud Storage FUSE driver, to read only
# TPU                           generation and topology of one host, such as v5e:2x4
# KEYS                          the Secret with the API keys: its entry `keys` has one on each line
# JOB_NAME   (tigerjax-serve)   of the Deployment and the Service
# SERVICE_ACCOUNT (default)     of Kubernetes, allowed to read the bucket
# START_S    (1800)             in which the model must have been read and compiled
# DRAIN_S    (60)               in which running answers may end before the server is stopped
# LIBTPU_INIT_ARGS (tigerjax/plan/libtpu_flags/)  libtpu flags in place of those of the generation
set -euo pipefail
takes=MODEL
# shellcheck source=launch/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/../settings.sh" "$@"
# shellcheck source=launch/kubernetes.sh
source "$root/launch/kubernetes.sh"

need IMAGE "the image of launch/Dockerfile, such as us-docker.pkg.dev/PROJECT/tigerjax/train:1"
need BUCKET "the bucket of the model, with a hierarchical namespace, without gs://"
need TPU "generation and topology of one host, such as v5e:2x4"
need KEYS "the Secret of Kubernetes with the API keys in its entry keys"
JOB_NAME=${JOB_NAME:-tigerjax-serve} SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-default} START_S=${START_S:-1800} DRAIN_S=${DRAIN_S:-60}
form "[a-z]([a-z0-9-]{0,38}[a-z0-9])?" "a name of at most 40 small letters, digits and -, which begins with a letter" JOB_NAME
form "$number" "a whole number from 1 on" START_S DRAIN_S
form "$image" "the name of an image, such as us-docker.pkg.dev/PROJECT/tigerjax/train:1" IMAGE
form "$bucket" "the name of a bucket, without gs://" BUCKET
form "$label" "a name of Kubernetes (small letters, digits, -)" SERVICE_ACCOUNT KEYS
read_topology
case $generation:$topology in
  v5e:1x1 | v5e:2x2 | v5e:2x4 | v6e:1x1 | v6e:2x2 | v6e:2x4 | v4:2x2x1 | v5p:2x2x1 | tpu7x:2x2x1) ;;
  *) refuse "TPU=$TPU is no topology of one host, and one process serves a model; take v5e:2x4, v6e:2x4 or v5p:2x2x1" ;;
esac
case $config in
  gs://* | /*) refuse "$(printable "$config") is not a path in the bucket; leave out gs://BUCKET/ or the slash" ;;
esac

# The options are tried here with a folder that is there, as the models lie in the bucket.
if [ -x "$tigerjax" ]; then
  "$tigerjax" serve "$root" "${arguments[@]:1}" --port 0 --reward-model None --tokenizer None --labels None --dry-run >/dev/null || exit $?
else
  say "note: the options were not checked, because $tigerjax is not there; run \`make venv\` first"
fi

container_words serve "/gcs/$config" "${arguments[@]:1}" --host 0.0.0.0 --port 8000 --api-key-file /keys/keys --drain-s "$DRAIN_S"
flags=$(libtpu_flags "$generation")

manifest() {
  cat <<YAML
apiVersion: apps/v1
kind: Deployment
metadata:
  name: $(string "$JOB_NAME")
  labels: {app: $(string "$JOB_NAME")}
spec:
  replicas: 1
  strategy: # a second model does not fit on the chips: the old server ends before the new one starts
    type: Recreate
  selector:
    matchLabels: {app: $(string "$JOB_NAME")}
  template:
    metadata:
      labels: {app: $(string "$JOB_NAME")}
      annotations:
        gke-gcsfuse/volumes: "true"
    spec:
      securityContext: # the image's user, to whom the bucket is mounted too
        runAsNonRoot: true
        runAsUser: 1000
        runAsGroup: 1000
        fsGroup: 1000
      serviceAccountName: $(string "$SERVICE_ACCOUNT")
      terminationGracePeriodSeconds: $((DRAIN_S + 30))
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
          ports:
            - name: http
              containerPort: 8000
          # The server listens once the model is read and compiled. /health needs no key.
          startupProbe:
            httpGet: {path: /health, port: http}
            periodSeconds: 10
            failureThreshold: $(((START_S + 9) / 10))
          readinessProbe:
            httpGet: {path: /health, port: http}
            periodSeconds: 5
          livenessProbe:
            httpGet: {path: /health, port: http}
            periodSeconds: 20
            timeoutSeconds: 10
          lifecycle: # no new connections come any more when SIGTERM does
            preStop:
              exec: {command: [sleep, "10"]}
          resources:
            requests:
              google.com/tpu: $chips
            limits:
              google.com/tpu: $chips
          volumeMounts:
            - name: bucket
              mountPath: /gcs
              readOnly: true
            - name: keys
              mountPath: /keys
              readOnly: true
      volumes:
        - name: bucket
          csi:
            driver: gcsfuse.csi.storage.gke.io
            readOnly: true
            volumeAttributes:
              bucketName: $(string "$BUCKET")
              mountOptions: implicit-dirs,uid=1000,gid=1000
        - name: keys
          secret:
            secretName: $(string "$KEYS")
---
apiVersion: v1
kind: Service
metadata:
  name: $(string "$JOB_NAME")
spec:
  selector: {app: $(string "$JOB_NAME")}
  ports:
    - name: http
      port: 80
      targetPort: http
YAML
}

if $dry_run; then
  echo "# kubectl apply -f - <<YAML"
  manifest
  exit 0
fi
manifest | kubectl apply -f -
say "follow it: kubectl rollout status deployment/$JOB_NAME; reach it: kubectl port-forward service/$JOB_NAME 8000:80"
