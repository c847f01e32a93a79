#!/usr/bin/env bash
# A Slurm batch job on GPUs, one process per GPU; it saves before its time ends, and is queued again.
#
# NODES     (1)                 GPUS_PER_NODE (8)
# TIME      (24:00:00)          of one start; after it the job is queued again, and the run resumes
# PARTITION ACCOUNT (none)
# JOB_NAME  (tigerjax-CONFIG)
# SETUP     (none)              a line that makes .venv usable on a node, such as "module load cuda"
set -euo pipefail
# shellcheck source=launch/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/../settings.sh" "$@"

JOB_NAME=${JOB_NAME:-tigerjax-${config_name//_/-}}
NODES=${NODES:-1} GPUS_PER_NODE=${GPUS_PER_NODE:-8} TIME=${TIME:-24:00:00}

script() {
  cat <<BATCH
#!/usr/bin/env bash
#SBATCH --job-name=$JOB_NAME
#SBATCH --nodes=$NODES
#SBATCH --ntasks-per-node=$GPUS_PER_NODE
#SBATCH --gpus-per-node=$GPUS_PER_NODE
#SBATCH --time=$TIME
${PARTITION:+#SBATCH --partition=$PARTITION
}${ACCOUNT:+#SBATCH --account=$ACCOUNT
}#SBATCH --output=$JOB_NAME-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# SIGTERM to every task 300 s before the end: three steps and a checkpoint must fit.
#SBATCH --signal=TERM@300
cd $(printf %q "$root") || exit 2
${SETUP:-}
export JAX_COMPILATION_CACHE_DIR=\${JAX_COMPILATION_CACHE_DIR:-runs/compiled}
srun --kill-on-bad-exit=0 --wait=60 .venv/bin/tigerjax train $(printf '%q ' "$(config_in_image)" --hosts.find slurm "${arguments[@]:1}")
code=\$?
# 2 to 5 are final (config, data, labels, gate); anything else resumes from the last checkpoint.
case \$code in
  0 | 2 | 3 | 4 | 5) exit "\$code" ;;
  *) scontrol requeue "\$SLURM_JOB_ID" ;;
esac
BATCH
}

if $dry_run; then
  echo "# sbatch <<BATCH"
  script
  exit 0
fi
script | sbatch
