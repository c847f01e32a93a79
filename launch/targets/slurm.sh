#!/usr/bin/env bash
# A Slurm batch job on GPUs, one process per GPU; it saves before its time ends, and is queued again.
#
# NODES     (1)                 GPUS_PER_NODE (8); NODES=2-4 takes as many of them as are free at each start, with
#                               --mesh.least-data
# TIME      (24:00:00)          of one start; after it the job is queued again, and the run resumes
# PARTITION ACCOUNT (none)
# JOB_NAME  (tigerjax-CONFIG)
# SETUP     (none)              shell commands that make .venv usable on a node, such as "module load cuda"
set -euo pipefail
# shellcheck source=launch/settings.sh
source "$(dirname "${BASH_SOURCE[0]}")/../settings.sh" "$@"

JOB_NAME=${JOB_NAME:-tigerjax-${config_name//_/-}}
NODES=${NODES:-1} GPUS_PER_NODE=${GPUS_PER_NODE:-8} TIME=${TIME:-24:00:00}
PARTITION=${PARTITION:-} ACCOUNT=${ACCOUNT:-} SETUP=${SETUP:-}
word='[A-Za-z0-9][A-Za-z0-9._-]*'
form "$word" "a name of letters, digits, ., _ and -" JOB_NAME
form "$number" "a whole number from 1 on" GPUS_PER_NODE
form "$number(-$number)?" "a whole number from 1 on, or two with - between them, such as 2-4" NODES
least=${NODES%-*} most=${NODES#*-}
((least <= most)) || refuse "NODES=$NODES has the larger number first; write NODES=$most-$least"
form "([0-9]+-)?[0-9]+(:[0-9]{1,2}){0,2}" "a time of Slurm, such as 24:00:00 or 2-00:00:00" TIME
[ -z "$PARTITION" ] || form "$word(,$word)*" "the names of partitions of Slurm, such as gpu or gpu,spare" PARTITION
[ -z "$ACCOUNT" ] || form "$word" "the name of an account of Slurm" ACCOUNT
[ -z "$SETUP" ] || bash -n <<<"$SETUP" 2>/dev/null || refuse "SETUP=$(printable "$SETUP") is no whole command of bash; change SETUP"
find_in_image
check_run $((most * GPUS_PER_NODE)) $((most * GPUS_PER_NODE)) 1
for ((nodes = least; nodes < most; nodes++)); do check_fewer $((nodes * GPUS_PER_NODE)) "NODES=$nodes of $NODES"; done

# With a number of tasks, Slurm would take as few nodes of a range as these tasks need.
tasks=ntasks-per-node
[ "$least" = "$most" ] || tasks=mincpus

script() {
  cat <<BATCH
#!/usr/bin/env bash
#SBATCH --job-name=$JOB_NAME
#SBATCH --nodes=$NODES
#SBATCH --$tasks=$GPUS_PER_NODE
#SBATCH --gpus-per-node=$GPUS_PER_NODE
#SBATCH --time=$TIME
${PARTITION:+#SBATCH --partition=$PARTITION
}${ACCOUNT:+#SBATCH --account=$ACCOUNT
}#SBATCH --output=$JOB_NAME-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# SIGTERM to every task 300 s before the end: three steps and a checkpoint must fit.
#SBATCH --signal=TERM@300
cd -- $(quoted "$root")|| exit 2
${SETUP:+eval $(quoted "$SETUP")
}export JAX_COMPILATION_CACHE_DIR=\${JAX_COMPILATION_CACHE_DIR:-runs/compiled}
srun --ntasks-per-node=$GPUS_PER_NODE --kill-on-bad-exit=0 --wait=60 .venv/bin/tigerjax train $(quoted "$image_config" --hosts.find slurm "${arguments[@]:1}")
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
