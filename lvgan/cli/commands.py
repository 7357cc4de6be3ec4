"""All commands, in the order of use."""

from __future__ import annotations

from lvgan.cli import (
    app,
    bench,
    data,
    doctor,
    evaluate,
    export,
    footage,
    generate,
    hub,
    import_official,
    inspect,
    ops,
    prepare,
    quickstart,
    runs,
    train,
)

for group in (
    quickstart, footage, prepare, data, train, runs, import_official, generate, inspect, export, hub, evaluate, bench,
    ops, doctor,
):  # fmt: skip
    group.register(app)
