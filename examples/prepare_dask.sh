#!/bin/sh
# Footage to shards on a Dask cluster, here one of two workers on this machine.
# Elsewhere, give the address of your scheduler: lvgan prepare raw/ out/ --dask tcp://10.0.0.1:8786
# The workers need lvgan[dask] installed, and must see both folders under the same paths.
set -eu

dask scheduler --host 127.0.0.1 --port 8786 & scheduler=$!
dask worker tcp://127.0.0.1:8786 --nworkers 2 --nthreads 1 & workers=$!
trap 'kill $workers $scheduler' EXIT

lvgan prepare "${1:-raw}" "${2:-out}" --dask tcp://127.0.0.1:8786 --report clips.html
