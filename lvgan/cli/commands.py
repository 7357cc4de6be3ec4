"""All commands, in the order of use."""

from __future__ import annotations

from lvgan.cli import (
    app,
    bench,
    data,
    doctor,
    evaluate,
    footage,
    generate,
    import_official,
    ops,
    prepare,
    quickstart,
    runs,
    train,
)

for group in (
    quickstart, footage, prepare, data, train, runs, import_official, generate, evaluate, bench, ops, doctor,
):  # fmt: skip
    group.register(app)
