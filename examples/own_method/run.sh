#!/usr/bin/env bash
# A method of your own, on a network and images of your own: from a folder of files to a table.
#
#   bash examples/own_method/run.sh               # about a minute on 2 cores, nothing is downloaded
#   bash examples/own_method/run.sh --epochs 1    # options are those of kdbench train
#
# own/ holds the method "sure", the network "smallnet" and the rules "digit-images-v1".
# It prints the accuracy of each student, then the table: ce (no teacher), kd and sure, with gains paired by seed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export KDBENCH_OWN=$here/own    # the same as --own "$here/own" in each command

python "$here/make_images.py" images
rules=(--protocol digit-images-v1 --data folder:images)
kdbench teacher train "${rules[@]}" --network resnet20 "$@"
kdbench train "${rules[@]}" --teacher resnet20 --student smallnet --method ce --method kd --method sure \
  --seed 1 --seed 2 "$@"
kdbench table runs
