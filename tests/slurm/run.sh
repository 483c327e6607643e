#!/bin/bash
# A SLURM of one node on loopback: a sweep's run of two processes, preempted, queued again, ends in the weights of an
# unbroken one. Some four minutes, two of which SLURM waits before it starts a job again. As root, on Debian:
#   apt-get install slurm-wlm munge
set -euo pipefail
if ! command -v slurmctld slurmd munged srun >/dev/null || [ "$(id -u)" != 0 ]; then
  echo "skipped: SLURM can't run here (as root: apt-get install slurm-wlm munge)"
  exit 0
fi
python=${PYTHON:-$(cd "$(dirname "$0")/../.." && pwd)/.venv/bin/python}
folder=$(mktemp -d)
export SLURM_CONF=$folder/slurm.conf OMP_NUM_THREADS=1 WANDB_MODE=offline
stop() {
  for name in slurmd ctld munge; do [ -f "$folder/$name.pid" ] && kill "$(cat "$folder/$name.pid")" || true; done
}
trap stop EXIT

host=$(hostname -s)
cat >"$SLURM_CONF" <<CONF
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/ctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/ctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
MpiDefault=none
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
mkdir -p "$folder"/{state,spool,munge,broken,whole}
chmod 755 "$folder" "$folder/munge"
head -c 1024 /dev/urandom >"$folder/munge.key"
chmod 600 "$folder/munge.key"
munged --force --key-file="$folder/munge.key" --socket="$folder/munge/socket" --pid-file="$folder/munge.pid" \
  --log-file="$folder/munge.log" --seed-file="$folder/munge.seed"
slurmctld
slurmd
for _ in $(seq 30); do sinfo -h | grep -q idle && break; sleep 1; done

words=(experiment=shapes crf=null model.backbone.width=8 'data.size=[33,41]' data.train_pictures=24
  data.val_pictures=10 augment=null trainer.max_steps=3000 trainer.val_check_interval=1500 trainer.precision=32-true trainer.accelerator=cpu
  total_batch=4 val_batch=4 workers=0 checkpoint_every=50 callback.pictures=null logger=csv
  trainer=ddp trainer.devices=2)
slurm=(evaluate=false seed=0 hydra/launcher=submitit_slurm hydra.launcher.tasks_per_node=2 hydra.launcher.timeout_min=15)

cd "$folder/broken"
timeout 500 "$python" -m atrous sweep "${words[@]}" "${slurm[@]}" >"$folder/sweep.log" 2>&1 &
sweep=$!
until [ -n "$(find . -name last.ckpt)" ]; do kill -0 $sweep && sleep 0.5; done
scancel --signal=USR2 "$(squeue -h -o %A)"
echo "preempted; SLURM starts it again in about two minutes"
wait $sweep || { tail -n 20 "$folder/sweep.log"; exit 1; }

cd "$folder/whole"
"$python" -m atrous train "${words[@]}" seed=0 >/dev/null
"$python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import torch

broken, whole = (
    torch.load(next(Path(sys.argv[1], name).rglob("last.ckpt")), weights_only=True) for name in ("broken", "whole")
)
assert broken["global_step"] == whole["global_step"] == 3000
assert all(torch.equal(value, whole["state_dict"][key]) for key, value in broken["state_dict"].items())
print("preempted, queued again, resumed: the same weights to the bit")
PYTHON
