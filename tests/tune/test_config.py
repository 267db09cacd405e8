"""The files in `config/` are what the models say, and what is stored loads again."""

import json
from pathlib import Path

import pytest

from trainable.config import assemble, dotted_keys, file_layers
from trainable.errors import ConfigError
from tune.config import Config

FOLDER = Path(__file__).parents[2] / "config"


WEATHER_KEYS = {
    "data.train",
    "data.val",
    "data.test",
    "evaluation.metrics",
    "evaluation.overall_weights",
    "wandb.project",
    "wandb.group",
    "wandb.tags",
    "wandb.notes",
    "wandb.custom_metrics",
}
"""What the shipped application sets for itself; the library's own defaults suit any task."""


def test_the_base_file_has_every_key_with_its_comment_and_only_the_weathers_own_values() -> None:
    layer = file_layers(FOLDER / "base_config.yaml", Config)[0]
    base, default = assemble(Config, [layer])[0].model_dump(), Config().model_dump()
    assert set(layer.values) == set(dotted_keys(Config))
    keys = [key.split(".") for key in dotted_keys(Config)]
    differing = {
        f"{section}.{name}" for section, name in keys if base[section][name] != default[section][name]
    }
    assert differing == WEATHER_KEYS
    text = (FOLDER / "base_config.yaml").read_text(encoding="utf-8")
    for key, field in dotted_keys(Config).items():
        assert field.description, key
        assert f"# {field.description}" in text, key


def test_nothing_of_the_weather_is_in_the_defaults() -> None:
    assert "weather" not in json.dumps(Config().model_dump(mode="json")).replace("weather_quick", "")


def test_the_quickstart_says_only_what_differs() -> None:
    layers = file_layers(FOLDER / "quickstart.yaml", Config)
    base, own = layers[0].values, layers[1].values
    assert own
    assert {key for key, value in own.items() if base[key] == value} == set()


def test_what_is_stored_loads_to_the_same(tmp_path: Path) -> None:
    config = Config.assemble(
        FOLDER / "quickstart.yaml", ["--lora.target_modules", "q_proj", "--search.timeout_s", "60"]
    )
    stored = tmp_path / "config.yaml"
    stored.write_text(config.to_yaml(), encoding="utf-8")
    read = Config.parse(stored.read_text(), str(stored), Path("results")).config
    assert read.trial() == config.trial()
    assert read.search.model_copy(update={"results_dir": config.search.results_dir}) == config.search


def test_the_default_file_is_read_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Config.assemble().wandb.entity is None
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "base_config.yaml").write_text("wandb: {entity: me}")
    assert Config.assemble().wandb.entity == "me"


def test_an_objective_on_texts_needs_texts() -> None:
    with pytest.raises(
        ConfigError, match=r"scored on generated texts: set evaluation\.text_metrics to always"
    ):
        Config.assemble(FOLDER / "base_config.yaml", ["--search.metric", "eval/overall_score"])
    flags = ["--search.metric", "eval/overall_score", "--evaluation.text_metrics", "always"]
    assert Config.assemble(FOLDER / "base_config.yaml", flags).search.metric == "eval/overall_score"


def test_the_trials_part_is_the_same_configuration() -> None:
    config = Config.assemble(FOLDER / "quickstart.yaml")
    trial = config.trial()
    assert trial.training == config.training
    assert not hasattr(trial, "search")


def test_what_is_shown_can_be_given_as_a_file(tmp_path: Path) -> None:
    config = Config.model_validate({"lora": {"r": 24}, "search": {"num_trials": 5}})
    (tmp_path / "shown.yaml").write_text(config.to_yaml())
    assert Config.assemble(tmp_path / "shown.yaml").lora.r == 24


def test_a_flag_may_hold_labels_and_resources() -> None:
    flags = ["--cluster.labels", "{zone: x}", "--cluster.resources", "{licence: 0.2}"]
    cluster = Config.assemble(None, flags).cluster
    assert (cluster.labels, cluster.resources) == ({"zone": "x"}, {"licence": 0.2})
