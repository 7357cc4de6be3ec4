"""Which run a command goes on with."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from lvgan import checkpoint as ckpt
from lvgan import config as cfg
from lvgan.errors import ConfigError, DataError, MachineError
from lvgan.training.logging import RunLog, read_log
from lvgan.training.runs import Run, all_runs, choose_run


def _start(root: Path, name: str, step: int, **values: object) -> Run:
    run = Run(root / name)
    config = _config(**values)
    run.create(config)
    if step:
        checkpoint = ckpt.new_checkpoint(config.stage, step=step, filler=list(range(1000)))
        ckpt.save(run.checkpoint_folder / f"{config.stage}-step-{step:06d}.pt", checkpoint)
    return run


def _config(path: str = "/data", **training: object) -> cfg.Config:
    return cfg.build("lr", {"data": {"path": path}, "training": {"steps": 10, **training}})


def _request(config: cfg.Config):
    return lambda stored: config


def test_names_count_up(tmp_path) -> None:
    first = choose_run("lr", _request(_config()), root=tmp_path)
    assert (first.run.name, first.message) == ("lr-0001", f"starting {tmp_path / 'lr-0001'}")
    _start(tmp_path, "lr-0007", 3, path="/elsewhere")
    assert choose_run("lr", _request(_config()), root=tmp_path).run.name == "lr-0008"


def test_the_newest_unfinished_run_on_the_same_data_goes_on(tmp_path) -> None:
    _start(tmp_path, "lr-0001", 4)
    choice = choose_run("lr", _request(_config()), root=tmp_path)
    assert choice.run.name == "lr-0001"
    assert "resuming" in choice.message
    assert "step 4" in choice.message
    assert choose_run("lr", _request(_config()), new=True, root=tmp_path).run.name == "lr-0002"
    other = choose_run("lr", _request(_config(seed=5)), root=tmp_path)
    assert other.run.name == "lr-0002"
    assert "training.seed" in other.message


def test_a_complete_run_is_said_to_be_so_and_goes_on_with_more_steps(tmp_path) -> None:
    _start(tmp_path, "lr-0001", 10)
    assert choose_run("lr", _request(_config()), root=tmp_path).finished
    more = choose_run("lr", _request(_config(steps=20)), root=tmp_path)
    assert not more.finished
    assert "resuming" in more.message


def test_an_unfinished_run_goes_before_a_newer_finished_one(tmp_path) -> None:
    _start(tmp_path, "lr-0001", 4)
    _start(tmp_path, "lr-0002", 10)
    assert choose_run("lr", _request(_config()), root=tmp_path).run.name == "lr-0001"


def test_a_checkpoint_cut_short_is_passed_over(tmp_path) -> None:
    run = _start(tmp_path, "lr-0001", 4)
    newest = run.checkpoint_folder / "lr-step-000008.pt"
    newest.write_bytes((run.checkpoint_folder / "lr-step-000004.pt").read_bytes()[:-100])
    choice = choose_run("lr", _request(_config()), root=tmp_path)
    assert "at step 4" in choice.message
    assert "lr-step-000008.pt is damaged" in choice.message
    assert ckpt.find(run.folder).name == "lr-step-000004.pt"


def test_a_complete_run_whose_last_checkpoint_is_damaged_goes_on(tmp_path) -> None:
    run = _start(tmp_path, "lr-0001", 10)
    newest = run.checkpoint_folder / "lr-step-000010.pt"
    content = bytearray(newest.read_bytes())
    content[content.index(b"filler")] ^= 1  # the index at the end of the file is as it was
    newest.write_bytes(content)
    choice = choose_run("lr", _request(_config()), root=tmp_path)
    assert not choice.finished
    assert "lr-step-000010.pt is damaged" in choice.message


def test_what_is_no_checkpoint_any_more_is_passed_over(tmp_path) -> None:
    complete = ckpt.new_checkpoint(
        "lr", step=4, config={"data": {}, "training": {}}, generator_ema={}, data={}
    )  # what every reader relies on
    for number, content in enumerate((b"", b"\0" * 5000, b"PK\x03\x05" + bytes(100))):
        run = _start(tmp_path, f"lr-{number}", 0)
        ckpt.save(run.checkpoint_folder / "lr-step-000004.pt", complete)
        (run.checkpoint_folder / "lr-step-000008.pt").write_bytes(content)
        said: list[str] = []
        found = run.load_newest("lr", said.append)
        assert found is not None
        assert found[0].name == "lr-step-000004.pt"
        assert "lr-step-000008.pt.damaged" in said[0]
        assert (run.checkpoint_folder / "lr-step-000008.pt.damaged").read_bytes() == content


def test_a_neighbour_that_cannot_be_read_stops_nobody(tmp_path) -> None:
    _start(tmp_path, "lr-0001", 4)
    later = _start(tmp_path, "lr-0002", 4)
    for text in (b"stage: lr\ntraining: {nonsense: 3}\n", b"stage: lr\n\xff\n", b"", b"stage: lr\n- x: ["):
        later.config_file.write_bytes(text)
        assert choose_run("lr", _request(_config()), root=tmp_path).run.name == "lr-0001"
        with pytest.raises((ConfigError, DataError), match=r"lr-0002.config\.yaml"):
            choose_run("lr", _request(_config()), name="lr-0002", root=tmp_path)
    later.config_file.write_text("stage: lr\ntraining: {nonsense: 3}\n")
    new = choose_run("lr", _request(_config(seed=7)), root=tmp_path)
    assert "nonsense" in new.message


def test_a_named_run(tmp_path) -> None:
    assert choose_run("lr", _request(_config()), name="mine", root=tmp_path).run.folder == tmp_path / "mine"
    _start(tmp_path, "mine", 4)
    assert "resuming" in choose_run("lr", _request(_config()), name="mine", root=tmp_path).message
    with pytest.raises(ConfigError, match="batch = 64, now 3;"):
        choose_run("lr", _request(_config(batch=3)), name="mine", root=tmp_path)
    with pytest.raises(ConfigError, match="--new"):
        choose_run("lr", _request(_config()), name="mine", new=True, root=tmp_path)
    with pytest.raises(ConfigError, match="made by train-lr"):
        choose_run("sr", _request(_config()), name="mine", root=tmp_path)
    with pytest.raises(ConfigError, match="letters"):
        choose_run("lr", _request(_config()), name="../up", root=tmp_path)


def test_runs_of_a_stage(tmp_path) -> None:
    _start(tmp_path, "lr-0001", 1)
    run = Run(tmp_path / "sr-0001")
    run.create(cfg.build("sr", {}))
    assert [r.name for r in all_runs(tmp_path, "sr")] == ["sr-0001"]
    assert {r.name for r in all_runs(tmp_path)} == {"lr-0001", "sr-0001"}


def test_a_look_at_the_lock_keeps_nobody_out(tmp_path) -> None:
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    looking = (run.folder / ".lock").open("a+")
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.1, looking.close).start()
    with run.lock(print):
        assert (run.folder / ".lock").read_text().startswith(f"process {os.getpid()} ")


def test_the_log_on_a_full_disk_is_one_sentence(tmp_path, capfd) -> None:
    log = RunLog(tmp_path, 0)
    log.write(1, {"loss/a": 0.5})
    log._file.close()
    log._file = open("/dev/full", "w")  # noqa: SIM115
    with pytest.raises(MachineError, match="No space left"):
        log.write(2, {"loss/a": 0.25})
    log.close()
    assert capfd.readouterr() == ("", "")


def test_tensorboard_reads_what_is_logged(tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, steps in ((0, (1, 2, 3)), (1, (2, 3, 4))):  # steps 2 and 3 are done again
        log = RunLog(tmp_path, start)
        for step in steps:
            log.write(step, {"loss/a": step + 10 * start, "note": "nan"})
        log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss/a")] == [(1, 1), (2, 12), (3, 13), (4, 14)]
    assert [line["loss/a"] for line in read_log(tmp_path / "log.jsonl")] == [1, 12, 13, 14]
