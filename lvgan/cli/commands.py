"""All commands, in the order of use."""

from __future__ import annotations

from lvgan.cli import app, bench, data, doctor, evaluate, export, footage, generate, ops, prepare, quickstart, runs, train

for group in (quickstart, footage, prepare, data, train, runs, generate, export, evaluate, bench, ops, doctor):
    group.register(app)
