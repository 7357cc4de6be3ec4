#!/usr/bin/env bash
# The paper's two ablations in small, 16x16 frames, three seeds: clips of 128 frames against 8 (1000 steps); and, with
# clips of 32 frames (400 steps), against 8 again, and noise filtered over the right times against far too short ones.
# Run it where raw/ and held-raw/ are; it goes on where it stopped.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

lvgan prepare raw data16 --fps 10 --lr 16x16 --hr 32x32
lvgan prepare held-raw held16 --fps 10 --lr 16x16 --hr 32x32
for seed in 0 1 2; do
  lvgan train-lr data16 --config "$here/long.yaml" --preset tiny --run long-$seed --set training.seed=$seed
  lvgan train-lr data16 --config "$here/long.yaml" --preset tiny --run long-8-$seed --set training.seed=$seed \
    --set data.frames=8
  lvgan train-lr data16 --config "$here/ablation.yaml" --preset tiny --run right-$seed --set training.seed=$seed
  lvgan train-lr data16 --config "$here/ablation.yaml" --preset tiny --run clip-8-$seed --set training.seed=$seed \
    --set data.frames=8 --set training.precision=fp32
  lvgan train-lr data16 --config "$here/ablation.yaml" --preset tiny --run short-$seed --set training.seed=$seed \
    --set model.generator.footprint_min=4 --set model.generator.footprint_max=16
done
python "$here/measure_ablations.py" long long-8 right clip-8 short --held held16 -o ablations
