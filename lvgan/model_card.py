"""A folder as it is published: weights, configuration, previews, and a model card made from the checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lvgan import checkpoint as ckpt
from lvgan import weight_file
from lvgan.errors import ConfigError, DataError
from lvgan.evaluation.protocol import Score, read_scores
from lvgan.files import machine_error
from lvgan.summary import PUBLISHED, summarise

_NAMES = {"lr": "low resolution", "sr": "super-resolution"}
_NO_LICENCE = "Nobody has stated a licence for these weights: ask their author before you use them."


@dataclass(frozen=True)
class Network:
    """One generator to publish: a part of a checkpoint, as it may be seen by others, and the run that it is from."""

    part: dict[str, Any]
    run: Path | None


def collect(sources: list[Path]) -> dict[str, Network]:
    """The generators of runs, checkpoints or a bundle, by stage.

    Raises:
        CheckpointError: one cannot be read, or two do not fit together.
        ConfigError: two of the same stage.
    """
    found: dict[str, Network] = {}
    files = [list(ckpt.published(source).values()) or [ckpt.find(source)] for source in sources]
    for source, path in ((source, path) for source, paths in zip(sources, files, strict=True) for path in paths):
        for stage, part in ckpt.parts_of(ckpt.load(path)).items():
            if stage in found:
                raise ConfigError(f"{source} is another network of {_NAMES[stage]}; give one of each at most")
            run = path.parent.parent if path.parent.name == "checkpoints" else None
            found[stage] = Network(_for_others(part), run)
    if len(found) == 2:
        ckpt.check_pair(found["lr"].part, found["sr"].part)
    return found


def _for_others(part: Mapping[str, Any]) -> dict[str, Any]:
    """Without what concerns this machine alone: folders, and the name of a project elsewhere."""
    config = json.loads(json.dumps(part["config"]))
    config["data"]["path"] = Path(config["data"].get("path") or "").name
    training = config["training"]
    training |= {key: Path(training[key]).name for key in ("init", "wandb") if training.get(key)}
    shown = {**part, "config": config}
    if isinstance(part.get("provenance"), Mapping):
        shown["provenance"] = {k: Path(str(v)).name if k == "path" else v for k, v in part["provenance"].items()}
    return shown


def lay_out(networks: Mapping[str, Network], folder: Path, repo: str, licence: str | None) -> list[str]:
    """Write everything into `folder`, which appears when it is complete. Returns the names of the files.

    Raises:
        ConfigError: the folder holds something already.
        MachineError: it cannot be written.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(f"{folder} holds something already; name a folder that is empty or not there yet")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    except OSError as error:
        raise machine_error(error, folder) from error
    try:
        _write(networks, beside, repo, licence)
        names = sorted(path.name for path in beside.iterdir())
        beside.chmod(0o755)
        os.replace(beside, folder)
    except OSError as error:
        raise machine_error(error, folder) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return names


def _write(networks: Mapping[str, Network], folder: Path, repo: str, licence: str | None) -> None:
    for stage, network in networks.items():
        weight_file.write(folder / f"{stage}.safetensors", network.part, ckpt.VERSION)
    config = {stage: network.part["config"] for stage, network in networks.items()}
    (folder / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    pictures = previews(networks["lr"].run) if "lr" in networks else {}
    for name, source in pictures.items():
        shutil.copyfile(source, folder / name)
    text = card(networks, repo, licence, list(pictures))
    (folder / "README.md").write_text(text, encoding="utf-8")


def previews(run: Path | None) -> dict[str, Path]:
    """``preview.png`` and ``preview.mp4`` of a low-resolution run: its newest, all of it generated.

    (Those of super-resolution runs show footage beside it, which is not ours to publish.)
    """
    if run is None:
        return {}
    samples = run / "samples"
    wanted = {"preview.png": ("step-??????.png",), "preview.mp4": ("step-??????-long.mp4", "step-??????.mp4")}
    newest = {
        name: [p for pattern in patterns for p in sorted(samples.glob(pattern))[-1:]]
        for name, patterns in wanted.items()
    }
    return {name: paths[0] for name, paths in newest.items() if paths}


def scores_beside(run: Path | None) -> list[Score]:
    """Of the files that `lvgan eval` wrote into a run's folder."""
    scores: list[Score] = []
    for path in [] if run is None else sorted([*run.glob("*.json"), *run.glob("eval/*.json")]):
        try:
            scores += read_scores(path)
        except DataError:  # another file, such as that of a plot
            continue
    return scores


def card(networks: Mapping[str, Network], repo: str, licence: str | None, pictures: list[str]) -> str:
    """The model card: YAML front matter and Markdown.

    Args:
        licence: an identifier that the Hub knows, such as "cc-by-4.0"; None: "other".
        pictures: names of previews that lie beside it.
    """
    facts = {stage: summarise(network.part) for stage, network in networks.items()}
    name = repo.partition("/")[2] or repo
    sections = [_front(facts, licence, name), f"# {name}\n\n{_what(facts)}"]
    if "preview.png" in pictures:
        sections.append("![Frames of generated clips, a clip a row](preview.png)")
    if "preview.mp4" in pictures:
        sections.append("[A generated clip](preview.mp4)")
    sections += [f"## Use\n\n{_use(facts, repo)}", f"## Networks\n\n{_table(facts)}", f"## Data\n\n{_data(facts)}"]
    scores = [score for network in networks.values() for score in scores_beside(network.run)]
    if scores:
        sections.append(f"## Scores\n\n{_scores(scores)}")
    sections.append(f"## Licence\n\n{_licence(facts, licence)}")
    return "\n\n".join(sections) + "\n"


def _front(facts: Mapping[str, Any], licence: str | None, name: str) -> str:
    values: dict[str, Any] = {"library_name": "lvgan", "license": licence or "other"}
    if licence is None:
        values |= {"license_name": "see-the-model-card", "license_link": "README.md#licence"}
    task = "unconditional-image-generation" if "lr" in facts else "image-to-image"
    tags = ["lvgan", "longvideogan", "gan", "video", "video-generation" if "lr" in facts else "super-resolution"]
    return "---\n" + yaml.safe_dump(values | {"pipeline_tag": task, "tags": tags}, sort_keys=False) + "---"


def _what(facts: Mapping[str, Any]) -> str:
    system = "LongVideoGAN ([Generating Long Videos of Dynamic Scenes](https://arxiv.org/abs/2206.03429))"
    if "lr" not in facts:
        sizes = f"from {facts['sr']['lr']} to {facts['sr']['hr']} (height x width)"
        return f"Super-resolution of video {sizes} with `lvgan`: the second network of {system}."
    size = facts["sr"]["hr"] if "sr" in facts else facts["lr"]["lr"]
    learnt = "learnt from footage by others, imported into" if _imported(facts["lr"]) else "learnt from footage with"
    return (
        f"Endless, non-repeating video of one kind of scene, {size} (height x width) at {facts['lr']['fps']:g} frames "
        f"a second, {learnt} `lvgan`, the system of {system}. Any frame can be made at any time: it "
        "depends on the weights, a seed and its number alone."
    )


def _imported(fact: Mapping[str, Any]) -> bool:
    """Whether others trained these weights, and nobody since."""
    return fact["provenance"].get("source") == PUBLISHED


def _use(facts: Mapping[str, Any], repo: str) -> str:
    pull = f"pip install 'lvgan[hub]'\nlvgan hub pull {repo} -o world.pt\n"
    if "lr" not in facts:
        return f"```sh\n{pull}lvgan upscale low.mp4 world.pt -o high.mp4\n```"
    python = (
        f'import lvgan\n\nvideo = lvgan.load("hf://{repo}", seed=0)\n'
        'picture = video[10**9]      # uint8 [H, W, 3]\nvideo.save("v.mp4", 600)\n'
    )
    return f"```sh\n{pull}lvgan sample world.pt -n 600 -o v.mp4\n```\n\n```python\n{python}```"


def _table(facts: Mapping[str, Any]) -> str:
    rows: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("frames (height x width)", lambda f: f"{f['lr']} to {f['hr']}" if f["hr"] else f["lr"]),
        ("colour channels", lambda f: str(f["channels"])),
        ("parameters of the generator", lambda f: f"{f['generator_values']:,}"),
        ("training steps", lambda f: "unknown" if _imported(f) and not f["step"] else f"{f['step']:,}"),
        ("frames of a training clip", lambda f: str(f["clip_frames"])),
        ("frames a second", lambda f: f"{f['fps']:g}"),
        ("written by", lambda f: ", ".join(f"{k} {v}" for k, v in f["versions"].items())),
    ]
    head = "| | " + " | ".join(_NAMES[stage] for stage in facts) + " |\n| --- |" + " --- |" * len(facts)
    body = [f"| {title} | " + " | ".join(_cell(show(f)) for f in facts.values()) + " |" for title, show in rows]
    return "\n".join([head, *body, "", "The weights are the running average (EMA) of those trained."])


def _data(facts: Mapping[str, Any]) -> str:
    lines = []
    for stage, f in facts.items():
        known = f"`{_cell(f['data'])}`" if f["data"] else "data that is not known"
        known = "data that the published file does not name" if _imported(f) else known
        mark = f" (fingerprint {f['fingerprint'][:12]})" if f["fingerprint"] else ""
        lines.append(f"- {_NAMES[stage]}: trained on {known}{mark}")
        lines += [f"  - {key}: {_cell(str(value))}" for key, value in f["provenance"].items() if value]
    return "\n".join(lines)


def _scores(scores: list[Score]) -> str:
    lines = ["| metric | of | value |", "| --- | --- | --- |"]
    for score in scores:
        spread = "" if score.std is None else f" ± {score.std:.3g}"
        lines.append(f"| {_cell(score.column)} | {_cell(score.label)} | {score.value:.4g}{spread} |")
    return "\n".join(
        [*lines, "", "Measured with `lvgan eval`; scores compare only if they were measured the same way."]
    )


def _licence(facts: Mapping[str, Any], licence: str | None) -> str:
    reminders = list(dict.fromkeys(_cell(f["licence"]) for f in facts.values() if f["licence"]))
    stated = [f"Published under `{licence}`."] if licence else [] if reminders else [_NO_LICENCE]
    code = "`lvgan` itself is Apache-2.0; that says nothing about weights and footage."
    return "\n\n".join([*stated, *reminders, code])


def _cell(text: str) -> str:
    """Text that cannot end a table's cell or begin HTML."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
