"""Start from another run's weights, and freeze parts of the networks."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import nn

from lvgan import checkpoint as ckpt
from lvgan.config import Config, build
from lvgan.errors import CheckpointError, ConfigError
from lvgan.training.loop import train
from lvgan.training.runs import Run
from lvgan.training.trainer import Trainer
from tests.training.toy import ToyTask


def _config(**training: object) -> Config:
    return build("lr", {"training": {"batch": 4, "steps": 6, "checkpoint_every": 3, "sample_every": 9, **training}})


class _Wide(ToyTask):
    """A toy whose discriminator is wider: its first layer and half of its last do not fit."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.discriminator = nn.Sequential(nn.Linear(4, 10), nn.Tanh(), nn.Linear(10, 1))


@pytest.fixture
def source(tmp_path):
    run = Run(tmp_path / "source")
    train(ToyTask(_config(seed=1)), run, progress=False)
    return run.checkpoint_folder / "lr-step-000006.pt"


def test_weights_are_taken_and_optimisers_are_not(source, tmp_path) -> None:
    task, run, said = ToyTask(_config(init=str(source), steps=0)), Run(tmp_path / "run"), []
    train(task, run, progress=False, say=said.append)
    one, two = (torch.load(p, weights_only=True) for p in (source, run.checkpoint_folder / "lr-step-000000.pt"))
    for part in ("generator", "generator_ema", "discriminator"):
        assert all(torch.equal(value, two[part][key]) for key, value in one[part].items())
    assert not torch.equal(one["generator"]["weight"], one["generator_ema"]["weight"])
    assert one["optimizers"][0]["state"]
    assert not two["optimizers"][0]["state"]
    assert two["step"] == two["ada"]["adapted"] == 0
    assert said == [
        f"starting from {source} at step 6: took 2 of 2 tensors of the generator and 4 of 4 tensors of the "
        "discriminator"
    ]
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert two["provenance"] == {"path": str(source), "step": 6, "sha256": digest, "not_taken": []}


def test_a_run_stands_for_its_newest_checkpoint(source, tmp_path) -> None:
    folder = source.parents[1]
    run = Run(tmp_path / "run")
    train(ToyTask(_config(init=str(folder), steps=0)), run, progress=False, say=lambda line: None)
    loaded = torch.load(run.checkpoint_folder / "lr-step-000000.pt", weights_only=True)
    assert loaded["provenance"]["path"] == str(source)
    assert loaded["config"]["training"]["init"] == str(folder)
    assert [p.name for p in folder.parent.glob("**/*.keep")] == [source.name + ".keep"]
    # Later, with more of them there, it is still the same run.
    train(ToyTask(_config(seed=1, steps=9)), Run(folder), progress=False)
    assert train(ToyTask(_config(init=str(folder), steps=2)), run, progress=False) == 2


def test_it_goes_on_from_its_own_checkpoint_and_remembers_where_it_began(source, tmp_path) -> None:
    run, straight = Run(tmp_path / "run"), Run(tmp_path / "straight")
    config = {"init": str(source)}
    train(ToyTask(_config(**config)), straight, progress=False, say=lambda line: None)
    train(ToyTask(_config(**config, steps=3)), run, progress=False, say=lambda line: None)
    # A source that a run started from is not deleted by its own run, but may go by hand.
    train(ToyTask(_config(seed=1, steps=9, keep=1)), Run(source.parents[1]), progress=False)
    assert source.exists()
    source.unlink()
    train(ToyTask(_config(**config)), run, progress=False)
    one, two = (torch.load(r.checkpoint_folder / "lr-step-000006.pt", weights_only=True) for r in (straight, run))
    assert all(torch.equal(value, two["generator"][key]) for key, value in one["generator"].items())
    assert one["provenance"] == two["provenance"] != {}


def test_what_does_not_fit_is_listed(source, tmp_path) -> None:
    task, run, said = _Wide(_config(init=str(source))), Run(tmp_path / "run"), []
    fresh = _Wide(_config())
    trainer_weights = {k: v.clone() for k, v in fresh.discriminator.state_dict().items()}
    train(task, run, progress=False, say=said.append)
    assert said == [
        f"starting from {source} at step 6: took 2 of 2 tensors of the generator and 1 of 4 tensors of the "
        "discriminator; not taken: discriminator.0.weight 10x4, there 8x4; discriminator.0.bias 10, there 8; "
        "discriminator.2.weight 1x10, there 1x8"
    ]
    assert trainer_weights["0.weight"].shape == (10, 4)
    record = torch.load(run.checkpoint_folder / "lr-step-000006.pt", weights_only=True)["provenance"]
    assert len(record["not_taken"]) == 3


def test_a_network_that_fits_not_at_all_is_refused(source, tmp_path) -> None:
    class Other(ToyTask):
        def __init__(self, config: Config) -> None:
            super().__init__(config)
            self.generator = nn.Sequential(nn.Linear(4, 4))

    run = Run(tmp_path / "runs" / "run")
    with pytest.raises(CheckpointError, match=r"none of the 2 tensors .*0\.weight 4x4, absent there"):
        train(Other(_config(init=str(source))), run, progress=False)
    assert not run.folder.exists()
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        train(ToyTask(_config(init=str(tmp_path / "none.pt"))), run, progress=False)
    with pytest.raises(CheckpointError, match="low-resolution checkpoint, but a super-resolution"):
        train(ToyTask(build("sr", {"training": {"init": str(source)}})), run, progress=False)


def test_a_bundle_will_do(source, tmp_path) -> None:
    part = ckpt.load(source)
    part["config"]["data"].update(lr="8x8", hr="16x16")
    both = ckpt.bundle(part, {**part, "stage": "sr"})
    path = tmp_path / "bundle.pt"
    ckpt.save(path, both)
    said: list[str] = []
    task = ToyTask(_config(init=str(path), steps=0))
    train(task, Run(tmp_path / "run"), progress=False, say=said.append)
    assert "no discriminator, which it lacks" in said[0]
    assert torch.equal(task.generator.weight, part["generator_ema"]["weight"])  # type: ignore[arg-type]


def test_frozen_parameters_stay() -> None:
    task = ToyTask(_config(freeze=["discriminator.0", "generator.bias"], r1_every=2))
    before = {k: v.clone() for k, v in [*task.generator.named_parameters(), *task.discriminator.named_parameters()]}
    trainer = Trainer(task)
    for _ in range(4):
        trainer.run_step()
    after = dict([*task.generator.named_parameters(), *task.discriminator.named_parameters()])
    still = {key for key in before if torch.equal(before[key], after[key])}
    assert still == {"bias", "0.weight", "0.bias"}


def test_freezing_what_is_not_there_names_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"'generator\.maping'.*generator\.weight.*discriminator\.0"):
        Trainer(ToyTask(_config(freeze=["generator.maping"])))
    with pytest.raises(ConfigError, match="all of the generator"):
        Trainer(ToyTask(_config(freeze=["generator"])))
    with pytest.raises(ConfigError, match="'discr'"):  # a name's beginning ends at a dot
        Trainer(ToyTask(_config(freeze=["discr"])))


def test_terms_stay_through_any_number_of_runs(source, tmp_path) -> None:
    origin = {"source": "published pickle", "file": "x.pkl"}
    first = ckpt.load(source)
    ckpt.save(tmp_path / "0.pt", {**first, "provenance": origin, "licence": "Not for sale."})
    for n in (1, 2, 3):
        run = Run(tmp_path / f"run {n}")
        task = ToyTask(_config(init=str(tmp_path / f"{n - 1}.pt"), steps=0))
        train(task, run, progress=False, say=lambda line: None)
        made = ckpt.load(run.checkpoint_folder / "lr-step-000000.pt")
        ckpt.save(tmp_path / f"{n}.pt", made)
        assert ckpt.licence_of(made) == "Not for sale."
        assert made["provenance"]["published"] == origin
