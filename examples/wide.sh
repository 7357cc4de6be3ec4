#!/usr/bin/env bash
# Your own videos (raw/, nested folders are fine) at 16:9, leaving out what should not be learnt.
set -euo pipefail

cat > cuts.yaml <<'LIST'
# video (relative path, file name or name without suffix): the parts to use; a video that is not named is used whole
my-first-ride: ["0:24 5:57", "6:30 1:02:10"]
LIST
lvgan prepare raw/ out/ --lr 36x64 --hr 144x256 --cuts cuts.yaml --trim-end 3
lvgan train-lr out/ --preset small
lvgan train-sr out/ --preset small
lvgan sample runs/lr-0001 --sr runs/sr-0001 -n 1800 -o wide.mp4
