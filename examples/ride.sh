#!/usr/bin/env bash
# Every stage by itself, on footage that is rendered here. Hours on a CPU, minutes on a GPU; it can be stopped
# and started again at any point.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

lvgan footage raw/ --videos 40 --seconds 20 --size 128x128
lvgan prepare raw/ out/ --lr 32x32 --hr 128x128
lvgan train-lr out/ --preset small --config "$here/ride.yaml" --run ride-lr
lvgan train-sr out/ --preset small --config "$here/ride.yaml" --run ride-sr
lvgan bundle runs/ride-lr runs/ride-sr -o ride.pt
lvgan sample ride.pt -n 1800 -o ride.mp4
lvgan eval color-sim out/0032x0032 runs/ride-lr -o eval/
