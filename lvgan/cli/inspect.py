"""``lvgan inspect``: what is in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def inspect(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint, run, bundle or exported file.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Everything that is known, as JSON.")] = False,
) -> None:
    """Say what a checkpoint or an exported file holds, where it is from and whose terms hold for it."""
    import json

    found = examine(checkpoint)
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    typer.echo(f"{found['path']}: {found['kind']}, {found['bytes'] / 1e6:.1f} MB")
    for part in found["parts"]:
        for line in _export_lines(part) if "inputs" in part else _lines(part):
            typer.echo(line)


def examine(path: Path) -> dict[str, Any]:
    """``path``, ``kind``, ``format``, ``bytes``, and the ``parts``: one network, or two.

    Raises:
        CheckpointError: a file that lvgan has not written, or a damaged one.
    """
    from lvgan import checkpoint as ckpt
    from lvgan.export.networks import network_name
    from lvgan.export.reading import read_record
    from lvgan.summary import summarise

    record = read_record(path)
    if record is not None:
        kind = {"torchscript": "TorchScript", "onnx": "ONNX"}[record["kind"]]
        found = {"kind": f"{network_name(record['stage'])}, exported as {kind}", "format": record.pop("kind")}
        return {"path": str(path), **found, "bytes": path.stat().st_size, "parts": [record]}
    files = list(ckpt.published(path).values()) if path.is_dir() else []
    files = files or [ckpt.find(path)]
    loaded = [ckpt.load(file) for file in files]
    parts = [summarise(part) for whole in loaded for part in ckpt.parts_of(whole).values()]
    return {
        "path": str(path if len(files) > 1 else files[0]),
        "kind": ckpt.stage_name(loaded[0]["stage"] if len(files) == 1 else "bundle"),
        "format": "safetensors" if files[0].suffix == ".safetensors" else "pt",
        "bytes": sum(file.stat().st_size for file in files),
        "parts": parts,
    }


def _lines(part: dict[str, Any]) -> list[str]:
    import yaml

    sizes = part["lr"] if part["hr"] is None else f"{part['lr']} -> {part['hr']}"
    rate = "" if part["fps"] is None else f", {part['fps']:g} a second"
    rows = [
        ("stage", part["stage"]),
        ("step", f"{part['step']} of {part['steps']}"),
        ("frames", f"{sizes}, {part['channels']} channels{rate}"),
        ("generator", f"{part['generator_values']:,} values"),
    ]
    if part["discriminator_values"]:
        rows.append(("discriminator", f"{part['discriminator_values']:,} values"))
    if part["augmentation"] is not None:
        rows.append(("augmentation", f"p = {part['augmentation']:.4f}"))
    held = ", ".join(part["training_state"])
    rows.append(
        ("training", f"holds {held}" if held else "the averaged generator only: it can be used or started from")
    )
    fingerprint = f" ({part['fingerprint'][:12]})" if part["fingerprint"] else ""
    rows.append(("data", f"{part['data'] or 'unknown'}{fingerprint}"))
    rows.append(("written by", ", ".join(f"{k} {v}" for k, v in part["versions"].items())))
    rows += _origin(part)
    lines = [*_rows(rows), "  configuration"]
    text = yaml.safe_dump(part["config"], sort_keys=False, default_flow_style=None, width=100)
    return lines + [f"    {line}" for line in text.splitlines()]


def _export_lines(record: dict[str, Any]) -> list[str]:
    from lvgan.checkpoint import one_line
    from lvgan.export.networks import contract

    rows = [
        ("stage", record["stage"]),
        ("step", str(record["step"])),
        ("frames", f"clips of {record['frames']}, {record['batch']} at once, {record['fps']:g} a second"),
        ("written by", ", ".join(f"{k} {v}" for k, v in record["versions"].items())),
        *_origin(record),
    ]
    return _rows(rows) + [f"  {one_line(line)}" for line in contract(record)]


def _rows(rows: list[tuple[str, str]]) -> list[str]:
    from lvgan.checkpoint import one_line

    return [f"  {name:<14} {one_line(text)}" for name, text in rows]


def _origin(part: dict[str, Any]) -> list[tuple[str, str]]:
    from lvgan.checkpoint import licence_of

    rows = [("provenance", f"{key}: {value}") for key, value in (part.get("provenance") or {}).items() if value]
    return [*rows, *([("licence", licence_of(part))] if licence_of(part) else [])]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(inspect)
