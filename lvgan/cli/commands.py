"""All commands, in the order of use."""

from __future__ import annotations

from lvgan.cli import app, bench, doctor, evaluate, footage, generate, ops, prepare, quickstart, train

for group in (quickstart, footage, prepare, train, generate, evaluate, bench, ops, doctor):
    group.register(app)
