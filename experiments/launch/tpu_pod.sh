#!/usr/bin/env bash
# Trains on the hosts of a TPU pod slice: the same command on each of them.
# See docs/launch.md.
#
#   export TPU=my-pod ZONE=us-east5-b
#   experiments/launch/tpu_pod.sh install
#   experiments/launch/tpu_pod.sh train --config=experiments/configs/published.py \
#     --workdir=/mnt/shared/runs/published
set -euo pipefail

usage() {
  echo "usage: TPU=name ZONE=zone $0 install | train FLAGS..." >&2
  exit 2
}

: "${TPU:?expected the name of the TPU in TPU}"
: "${ZONE:?expected its zone in ZONE}"
# The images of TPU VMs may have an older one, which the package does not take.
PYTHON="${PYTHON:-python3.11}"
FOLDER="pmrl_jax"  # below the home of each host

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
    --command="$1"
}

case "${1:-}" in
  install)
    # What is committed, so that all hosts have the same.
    archive="$(mktemp -d)/pmrl_jax.tar.gz"
    git -C "$(dirname "$0")/../.." archive --format=tar.gz --output="$archive" HEAD
    gcloud compute tpus tpu-vm scp "$archive" "$TPU": --zone="$ZONE" \
      --worker=all
    on_all_hosts "set -e; mkdir -p $FOLDER; tar -xzf pmrl_jax.tar.gz -C $FOLDER
      cd $FOLDER; $PYTHON -m venv .venv
      .venv/bin/python -m pip install --quiet --editable '.[media,tpu]'"
    ;;
  train)
    shift
    (($#)) || usage
    # Quoted once more, since a shell on each host reads them.
    flags="$(printf '%q ' "$@")"
    # On TPU VMs JAX has to ask who the others are.
    on_all_hosts "cd $FOLDER && exec .venv/bin/python -m experiments.train \
      --distributed=on $flags"
    ;;
  *) usage ;;
esac
