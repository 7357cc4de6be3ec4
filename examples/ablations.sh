#!/usr/bin/env bash
# Two ablations of the paper, as settings: how long are the clips that the networks learn from, and how far back
# does the generator's noise reach? Days on a GPU with the paper preset; `bash ablations.sh tiny 200` is a rehearsal.
# It can be stopped and started again at any point: finished runs are passed over, an unfinished one goes on.
set -euo pipefail
preset=${1:-paper}
steps=${2:-100000}

# Clip length in frames; the number of clips that a step sees stays the same.
for frames in 8 16 32 64 128; do
  lvgan train-lr out/ --preset "$preset" --steps "$steps" --run "clip-$frames" --set data.frames=$frames
done

# Longest footprint of the low-pass filters on the noise, in frames; at 100 all filters are as short as the shortest.
for footprint in 100 500 1000 2500 5000; do
  lvgan train-lr out/ --preset "$preset" --steps "$steps" --run "footprint-$footprint" \
    --set model.generator.footprint_max=$footprint
done

# The curves of each in one picture, and figure 5 of the paper: colours over 128 frames, beside the data's.
lvgan plot clip-8 clip-16 clip-32 clip-64 clip-128 -o clip-length.png
lvgan plot footprint-100 footprint-500 footprint-1000 footprint-2500 footprint-5000 -o footprint.png
lvgan eval color-sim out/ 8=runs/clip-8 16=runs/clip-16 32=runs/clip-32 64=runs/clip-64 128=runs/clip-128 \
  -o eval/clip-length
lvgan eval color-sim out/ 100=runs/footprint-100 500=runs/footprint-500 1000=runs/footprint-1000 \
  2500=runs/footprint-2500 5000=runs/footprint-5000 -o eval/footprint
