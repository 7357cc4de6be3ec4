"""``lvgan prepare``: footage to shards."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lvgan.data.manifest import Manifest

LISTED = 20  # of the files that were left out


def prepare(
    raw: Annotated[Path, typer.Argument(help="A folder of videos and folders of frames, of any depth, or one video.")],
    out: Annotated[Path, typer.Argument(help="The folder for the shards.")],
    lr: Annotated[str, typer.Option(metavar="HxW", help="Low resolution.")] = "64x64",
    hr: Annotated[str, typer.Option(metavar="HxW", help="High resolution, a whole multiple.")] = "256x256",
    fps: Annotated[float, typer.Option(help="Frames a second of the result.")] = 30,
    frames_fps: Annotated[
        float | None,
        typer.Option(help="Frames a second of folders of pictures.", show_default="every picture is one frame"),
    ] = None,
    cuts: Annotated[Path | None, typer.Option(help='Parts to use: JSON or YAML, {video: ["0:24 5:57", ...]}.')] = None,
    scene_cut: Annotated[
        str,
        typer.Option(
            metavar="auto|off|THRESHOLD",
            help="Split at cuts and fades: where --cuts names nothing, nowhere, or everywhere (more finds fewer).",
        ),
    ] = "auto",
    cut_margin: Annotated[int, typer.Option(help="Frames left out on both sides of a scene cut.")] = 2,
    trim_start: Annotated[float, typer.Option(help="Seconds left out at the start of every video.")] = 0,
    trim_end: Annotated[float, typer.Option(help="Seconds left out at the end of every video.")] = 0,
    crop: Annotated[
        str,
        typer.Option(
            metavar="auto|center|X:Y:W:H",
            help="Black bars off, then the centre; the centre alone; or a part of the picture, in pixels.",
        ),
    ] = "auto",
    min_frames: Annotated[int, typer.Option(help="Shorter clips are left out.")] = 12,
    max_frames: Annotated[int, typer.Option(help="Longer clips are split.")] = 10_000,
    drop_static: Annotated[
        bool, typer.Option("--drop-static", help="Leave out clips that stand still or are black.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="A page with the first and last frame of every clip.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Videos converted at a time.", show_default="CPU cores")] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Do part I of N: one job of an array (examples/prepare.slurm).")
    ] = None,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Do the work on a Dask cluster, as in tcp://10.0.0.1:8786.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace shards that were made with other settings.")
    ] = False,
) -> None:
    """Turn videos and folders of frames into training data.

    Each is decoded once, split at scene cuts, cropped, scaled to both sizes and stored as shards.
    Files that cannot be used are left out and listed with the reason. Running it again goes on where it
    stopped, and takes up new or changed footage. OUT/cuts.yaml says what is used: edit it, and give it to --cuts.
    """
    from lvgan.data.plan import parse_share
    from lvgan.data.prepare import prepare as work
    from lvgan.sizes import Size

    with Bars() as bars:
        manifest = work(
            raw,
            out,
            lr=Size.parse(lr),
            hr=Size.parse(hr),
            fps=fps,
            frames_fps=frames_fps,
            cuts=cuts,
            scene_cut=_threshold(scene_cut),
            cut_margin=cut_margin,
            trim_start=trim_start,
            trim_end=trim_end,
            crop=crop,
            min_frames=min_frames,
            max_frames=max_frames,
            drop_static=drop_static,
            report=report,
            workers=workers,
            shard=parse_share(shard) if shard is not None else None,
            dask=dask,
            overwrite=overwrite,
            progress=bars.show,
        )
    if not manifest.complete:
        typer.echo(f"part {shard} is done; the set is complete when all other parts are")
        return
    typer.echo(summary(manifest, out))
    if report is not None:
        typer.echo(f"look at the clips: {shlex.quote(str(report))}")


def _threshold(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text  # auto or off; anything else is refused there


class Bars:
    """A progress bar on standard error for each phase, one after the other."""

    def __init__(self) -> None:
        self._phase = ""
        self._bar: object = None

    def show(self, phase: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if phase != self._phase:
            self._close()
            self._phase = phase
            words = {"files": "examining files", "frames": "converting"}
            self._bar = tqdm(total=total, desc=words[phase], unit=f" {phase}", dynamic_ncols=True)
        assert isinstance(self._bar, tqdm)
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()  # type: ignore[attr-defined]
            self._bar = None

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


def summary(manifest: Manifest, out: Path) -> str:
    """What was kept, what was left out and why, and the next command."""
    totals, sources, sizes = manifest.totals, manifest.sources, f"{manifest.lr} and {manifest.hr}"
    used = [source for source in sources if source.skipped is None]
    lines = [
        f"{len(used)} of {_count(len(sources), 'video')} used: {_count(int(totals['clips']), 'clip')}, "
        f"{_count(int(totals['frames']), 'frame')}, {totals['hours']:.2f} hours, at {sizes}"
    ]
    lines += _section("left out", [f"{printable(s.path)}: {s.skipped}" for s in manifest.skipped])
    lines += _section("used, but", [f"{printable(s.path)}: {note}" for s in used for note in s.notes])
    lines += _dropped(manifest)
    short = int(totals["shorter_than_128_frames"])
    if short:
        lines.append(
            f"{short} of {_count(int(totals['clips']), 'clip')} shorter than 128 frames, the paper's length: "
            "low-resolution training leaves them out unless data.frames is set lower"
        )
    lines.append(f"next: lvgan train-lr {shlex.quote(str(out))}")
    return "\n".join(lines)


def _dropped(manifest: Manifest) -> list[str]:
    """Such as ``kept 812 of 1000 clips: 188 shorter than 128 frames``."""
    totals = manifest.totals
    short, still, kept = int(totals["dropped_short"]), int(totals["dropped_static"]), int(totals["clips"])
    reasons = [f"{short} shorter than {manifest.settings['min_frames']} frames"] if short else []
    reasons += [f"{still} static or black"] if still else []
    lines = [f"kept {kept} of {kept + short + still} clips: {' and '.join(reasons)}"] if reasons else []
    static = int(totals["static"])
    if static:
        lines.append(f"{static} of {_count(kept, 'clip')} static or black; --drop-static leaves them out")
    return lines


def _section(title: str, entries: list[str]) -> list[str]:
    if not entries:
        return []
    shown = [f"  {entry}" for entry in entries[:LISTED]]
    if len(entries) > LISTED:
        shown.append(f"  and {len(entries) - LISTED} more, all in manifest.json")
    return [f"{title}:", *shown]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def printable(name: str) -> str:
    """A name for the screen."""
    # File names may hold line breaks and bytes that are no text; neither may spoil the report.
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("prepare")(prepare)
