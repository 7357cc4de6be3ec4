"""Configurations: presets, overrides, and refusals that name the remedy."""

from __future__ import annotations

import pytest
import yaml

from lvgan import config as cfg
from lvgan.errors import ConfigError
from lvgan.sizes import Size


@pytest.mark.parametrize("stage", ["lr", "sr"])
def test_paper_preset_is_the_default(stage: str) -> None:
    assert cfg.build(stage, cfg.load_preset("paper", stage)) == cfg.build(stage, {})


@pytest.mark.parametrize("preset", cfg.PRESETS)
@pytest.mark.parametrize("stage", ["lr", "sr"])
def test_yaml_round_trip(preset: str, stage: str) -> None:
    config = cfg.build(stage, cfg.merge(cfg.load_preset(preset, stage), {"data": {"lr": "36x64"}}))
    again = cfg.build(stage, yaml.safe_load(cfg.to_yaml(config)))
    assert again == config
    assert again.data.lr == Size(36, 64)


def test_paper_numbers() -> None:
    lr, sr = cfg.LrConfig(), cfg.SrConfig()
    assert (lr.training.batch, lr.training.steps) == (64, 100_000)
    assert (lr.training.generator_rate, lr.training.discriminator_rate) == (0.003, 0.002)
    assert (sr.training.batch, sr.training.steps) == (32, 275_000)
    assert (sr.training.generator_rate, sr.training.discriminator_rate) == (0.003, 0.003)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"training": {"stpes": 3}}, ["training.stpes", "training.steps"]),
        ({"trainin": {}}, ["trainin", "training"]),
        ({"training": {"steps": 2.6}}, ["2.6", "nearest is 3"]),
        ({"training": {"steps": "many"}}, ["training.steps", "number"]),
        ({"training": {"batch": 0}}, ["training.batch", "1 or more"]),
        ({"training": {"beta2": 1.5}}, ["beta2", "at most 1"]),
        ({"training": {"steps": True}}, ["training.steps", "number"]),
        ({"training": {"r1_gamma": float("nan")}}, ["r1_gamma", "finite"]),
        ({"training": {"generator_rate": float("inf")}}, ["generator_rate", "finite"]),
        ({"data": {"flip": "perhaps"}}, ["data.flip", "true or false"]),
        ({"data": {"lr": "64"}}, ["64", "36x64"]),
        ({"training": 3}, ["training", "settings inside"]),
        ({"training": {"diffaug": ["colour"]}}, ["colour", "color"]),
        ({"model": {"generator": {"footprint_min": 500, "footprint_max": 400}}}, ["footprint_max", "500"]),
        ({"model": {"discriminator": {"widths": 64}}}, ["widths", "list"]),
    ],
)
def test_bad_values_are_refused_with_a_remedy(values: dict, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        cfg.build("lr", values)
    for word in words:
        assert word in str(caught.value)


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="nearest: tiny"):
        cfg.load_preset("tinny", "lr")


def test_override_and_merge() -> None:
    values = cfg.merge({"training": {"steps": 5, "batch": 2}}, cfg.parse_override("training.steps=20"))
    assert values == {"training": {"steps": 20, "batch": 2}}
    assert cfg.parse_override("data.lr=[8 t, 8 t]") == {"data": {"lr": ["8 t", "8 t"]}}
    with pytest.raises(ConfigError, match="key=value"):
        cfg.parse_override("training.steps")


def test_file_with_parts(tmp_path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("lr:\n  training: {steps: 7}\nsr:\n  training: {steps: 9}\n")
    assert cfg.load_file(path, "sr") == {"training": {"steps": 9}}
    path.write_text("training: {steps: 7}\n")
    assert cfg.load_file(path, "sr") == {"training": {"steps": 7}}
    path.write_text("stage: lr\n")
    with pytest.raises(ConfigError, match="'sr' was expected"):
        cfg.load_file(path, "sr")
    path.write_text("a: [")
    with pytest.raises(ConfigError, match="not YAML"):
        cfg.load_file(path, "sr")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a text file"):
        cfg.load_file(path, "sr")
    with pytest.raises(ConfigError, match="cannot read"):
        cfg.load_file(tmp_path / "none.yaml", "sr")


def test_differences_ignore_what_a_run_may_change() -> None:
    one = cfg.build("lr", {"training": {"steps": 10, "seed": 1}})
    assert cfg.differences(one, cfg.build("lr", {"training": {"steps": 20, "seed": 1}})) == {}
    assert cfg.differences(one, cfg.build("lr", {"training": {"seed": 2}})) == {"training.seed": (1, 2)}


@pytest.mark.parametrize("word", ["off", "Off", "OFF"])
def test_words_that_yaml_takes_for_booleans_are_words_where_text_is_expected(word: str, tmp_path) -> None:
    assert cfg.build("lr", cfg.parse_override(f"data.cache={word}")).data.cache == "off"
    path = tmp_path / "run.yaml"
    path.write_text(f"data:\n  cache: {word}\n")
    assert cfg.build("sr", cfg.load_file(path, "sr")).data.cache == "off"
    with pytest.raises(ConfigError, match="cache is 'on', but one of auto, memory, off was expected"):
        cfg.build("lr", cfg.parse_override("data.cache=on"))
    with pytest.raises(ConfigError, match="quotes"):
        cfg.build("lr", cfg.parse_override("training.wandb=no"))
    assert cfg.build("lr", cfg.parse_override("training.wandb='no'")).training.wandb == "no"


@pytest.mark.parametrize(("key", "wanted"), [("micro_batch", "a number or auto"), ("batch", "a number")])
def test_a_word_for_a_number_is_told_what_words_there_are(key: str, wanted: str) -> None:
    with pytest.raises(ConfigError, match=f"training.{key} is 'x', but {wanted} was expected$"):
        cfg.build("lr", {"training": {key: "x"}})
