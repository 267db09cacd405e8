#!/usr/bin/env bash
# One search over several Slurm nodes: a Ray cluster for as long as the job lasts.
#
#   sbatch cluster/manifests/slurm.sh my.yaml first
#
# Slurm sends SIGTERM two minutes before the time is up: all trials are saved, and the job puts itself in the
# queue again, where it resumes the search.
#SBATCH --job-name=loratune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

config=$1
name=$2
results=${RESULTS_DIR:-$PWD/results} # on a file system that all nodes share
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000)) # two jobs of yours may share a node
# Every process of the cluster sends this token; without it, whoever reaches the port could run code.
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token

srun --nodes=1 --ntasks=1 --nodelist="$head" ray start --head --node-ip-address="$head" --port="$port" \
  --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats --block &
sleep 15
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" \
    ray start --address="$head:$port" --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats --block &
fi
sleep 15

if [ -e "$results/$name/config.yaml" ]; then
  loratune resume "$name" --results_dir "$results" --cluster.address "$head:$port" &
else
  loratune search --config "$config" --name "$name" --results_dir "$results" --cluster.address "$head:$port" &
fi
search=$!
trap 'kill -TERM $search' TERM
status=0
wait $search || status=$?
if [ $status -gt 128 ]; then # the trap interrupted `wait`: let the search finish saving
  wait $search || status=$?
fi
if [ $status -eq 130 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
