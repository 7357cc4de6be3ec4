"""All commands, in the order of use."""

from __future__ import annotations

from lvgan.cli import app, bench, evaluate, footage, generate, prepare, quickstart, train

for group in (quickstart, footage, prepare, train, generate, evaluate, bench):
    group.register(app)
