#!/bin/sh
# Starts Slurm on this machine, as root: a controller and two nodes of one CPU each, all below the folder FOLDER.
#   sh tests/slurm_up.sh FOLDER && export SLURM_CONF=FOLDER/slurm.conf     the processes' ids are in FOLDER/*.pid
# SLURM_UP_MORE is one more line of slurm.conf.
# On Debian: apt-get install slurm-wlm munge
set -e
FOLDER=${1:?give the absolute path of a folder}
case $FOLDER in /*) ;; *) echo "$FOLDER is no absolute path" >&2; exit 2 ;; esac
PORT=${SLURM_UP_PORT:-17001}
mkdir -p "$FOLDER/state" "$FOLDER/n1" "$FOLDER/n2"
chmod 755 "$FOLDER"
dd if=/dev/urandom of="$FOLDER/munge.key" bs=32 count=1 2> /dev/null
chmod 400 "$FOLDER/munge.key"
munged --force --key-file="$FOLDER/munge.key" --socket="$FOLDER/munge.socket" --pid-file="$FOLDER/munged.pid" \
    --log-file="$FOLDER/munged.log" --seed-file="$FOLDER/munge.seed"
cat > "$FOLDER/slurm.conf" <<CONF
ClusterName=here
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$FOLDER/munge.socket
CredType=cred/munge
SlurmctldPort=$PORT
SlurmctldPidFile=$FOLDER/slurmctld.pid
SlurmctldLogFile=$FOLDER/slurmctld.log
SlurmdPidFile=$FOLDER/slurmd-%n.pid
SlurmdLogFile=$FOLDER/slurmd-%n.log
SlurmdSpoolDir=$FOLDER/%n
StateSaveLocation=$FOLDER/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SchedulerType=sched/builtin
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MinJobAge=300
SlurmdTimeout=30
NodeName=n1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((PORT + 1)) CPUs=1 RealMemory=4000
NodeName=n2 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((PORT + 2)) CPUs=1 RealMemory=4000
PartitionName=cpu Nodes=n1,n2 Default=YES State=UP MaxTime=INFINITE
${SLURM_UP_MORE:-}
CONF
slurmctld -f "$FOLDER/slurm.conf"
slurmd -N n1 -f "$FOLDER/slurm.conf"
slurmd -N n2 -f "$FOLDER/slurm.conf"
