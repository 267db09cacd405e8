"""A configuration is laid together from files, environment and flags; a wrong one is told in one line."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from trainable.config import (
    Layer,
    TrialConfig,
    assemble,
    dotted_keys,
    environment_layer,
    file_layers,
    flag_layer,
)
from trainable.errors import ConfigError


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_later_layers_win_and_say_so(tmp_path: Path) -> None:
    write(
        tmp_path / "base.yaml", {"lora": {"r": 8, "alpha": 4}, "wandb": {"project": "file", "entity": "file"}}
    )
    own = write(tmp_path / "own.yaml", {"base": "base.yaml", "lora": {"alpha": 5}})
    config, sources = assemble(
        TrialConfig,
        [
            *file_layers(own, TrialConfig),
            environment_layer({"WANDB_PROJECT": "environment", "WANDB_ENTITY": "environment"}),
            flag_layer(["--wandb.entity", "flag", "--training.batch_size=3"], TrialConfig),
        ],
    )
    assert (config.lora.r, config.lora.alpha) == (8, 5)
    assert (config.wandb.project, config.wandb.entity) == ("environment", "flag")
    assert config.training.batch_size == 3
    assert sources["lora.r"].endswith("base.yaml")
    assert sources["lora.alpha"].endswith("own.yaml")
    assert sources["wandb.entity"] == "flag"
    assert "lora.dropout" not in sources


@pytest.mark.parametrize(
    ("flags", "key", "value"),
    [
        (["--lora.target_modules", "all-linear"], ("lora", "target_modules"), "all-linear"),
        (["--lora.target_modules", "q_proj,v_proj"], ("lora", "target_modules"), ["q_proj", "v_proj"]),
        (["--lora.target_modules=[q_proj]"], ("lora", "target_modules"), ["q_proj"]),
        (["--learning_rate=5e-5"], ("training", "learning_rate"), 5e-5),
        (["--warmup_ratio", "0.5"], ("training", "warmup_ratio"), 0.5),
        (["--lora={'r': 8, 'target_modules': ['q_proj']}"], ("lora", "target_modules"), ["q_proj"]),
        (["--training={'max_steps': None, 'learning_rate': 5e-05}"], ("training", "learning_rate"), 5e-5),
        (["--max_steps=None"], ("training", "max_steps"), None),
        (["--wandb.watch_model=False"], ("wandb", "watch_model"), False),
        (["--training.max_steps", "null"], ("training", "max_steps"), None),
        (["--wandb.log_model", "false"], ("wandb", "log_model"), False),
        (["--wandb.tags", "a,b"], ("wandb", "tags"), ["a", "b"]),
        (["--data.prompt_template", "Q: {input}"], ("data", "prompt_template"), "Q: {input}"),
        (["--engine.slots_per_device", "3"], ("engine", "slots_per_device"), 3),
    ],
)
def test_flags(flags: list[str], key: tuple[str, str], value: Any) -> None:
    config, _ = assemble(TrialConfig, [flag_layer(flags, TrialConfig)])
    assert getattr(getattr(config, key[0]), key[1]) == value


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--lora.rr", "3"], r"unknown key 'lora\.rr'.*Did you mean 'lora\.r'"),
        (["--batch_size", "3"], r"--batch_size: .* training\.batch_size or evaluation\.batch_size"),
        (["--lora={'rr': 3}"], r"flag --lora: unknown key 'lora\.rr'.*Did you mean 'lora\.r'"),
        (["--lora=3"], r"flag --lora: 'lora' is a section of keys, not the value 3"),
        (["--lora.r", "0"], r"lora\.r = 0 is not allowed.*greater than or equal to 1"),
        (["--lora.r"], r"--lora\.r has no value"),
        (["--lora.r", "--lora.alpha", "3"], r"--lora\.r has no value"),
        (["lora.r", "3"], r"'lora\.r' is no flag"),
        (["--training.lr_scheduler", "step"], "allowed: linear, cosine, constant"),
        (["--training.learning_rate", "fast"], r"training\.learning_rate = 'fast' is not allowed"),
        (["--data.prompt_template", "hello"], r"must contain \{input\}"),
        (["--lora.dropout", "1"], r"lora\.dropout = 1 is not allowed"),
        (["--evaluation.overall_weights", "{a: -1}"], "must be non-negative"),
        (["--engine.max_tokens_per_pass", "3"], "must be at least 64"),
    ],
)
def test_a_wrong_flag_is_told_with_what_is_allowed(flags: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        assemble(TrialConfig, [flag_layer(flags, TrialConfig)])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("lora: 3", r"'lora' is a section of keys, not the value 3"),
        ("- a", "expected sections such as `lora:`, found list"),
        ("lora: {r: 8", "is not YAML"),
        ({"lorra": {"r": 1}}, r"unknown key 'lorra'"),
        ({"lora": {"ranks": 1}}, r"unknown key 'lora\.ranks'"),
        ({"base": "own.yaml"}, "is its own base"),
        ({"base": "none.yaml"}, r"none\.yaml' does not exist"),
    ],
)
def test_a_wrong_file_is_told_by_name(tmp_path: Path, content: Any, told: str) -> None:
    own = write(tmp_path / "own.yaml", content)
    with pytest.raises(ConfigError, match=told):
        file_layers(own, TrialConfig)


def test_a_missing_file_says_where_to_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist. Start from config/base_config\.yaml"):
        file_layers(tmp_path / "none.yaml", TrialConfig)


def test_a_value_that_is_wrong_in_a_file_names_the_file(tmp_path: Path) -> None:
    own = write(tmp_path / "own.yaml", {"training": {"batch_size": 0}})
    with pytest.raises(ConfigError, match=r"own\.yaml: training\.batch_size = 0 is not allowed"):
        assemble(TrialConfig, file_layers(own, TrialConfig))


def test_an_empty_file_or_section_changes_nothing(tmp_path: Path) -> None:
    for content in ("", "lora:\n"):
        config, sources = assemble(
            TrialConfig, file_layers(write(tmp_path / "own.yaml", content), TrialConfig)
        )
        assert config == TrialConfig()
        assert not sources


@pytest.mark.parametrize("word", ["true", "1", "True"])
def test_wandb_disabled_wins_over_its_mode(word: str) -> None:
    config, _ = assemble(
        TrialConfig,
        [environment_layer({"WANDB_MODE": "online", "WANDB_DISABLED": word, "WANDB_TAGS": "a,b"})],
    )
    assert config.wandb.mode == "disabled"
    assert config.wandb.tags == ["a", "b"]


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("WANDB_ENTITY", "me", "entity", "me"),
        ("WANDB_PROJECT", "7", "project", "7"),
        ("WANDB_MODE", "offline", "mode", "offline"),
        ("WANDB_DISABLED", "true", "mode", "disabled"),
        ("WANDB_NAME", "n", "name", "n"),
        ("WANDB_RUN_GROUP", "g", "group", "g"),
        ("WANDB_NOTES", "why", "notes", "why"),
        ("WANDB_TAGS", "a, b", "tags", ["a", "b"]),
    ],
)
def test_the_environment_wins_over_files_and_flags_win_over_both(
    tmp_path: Path, variable: str, text: str, key: str, value: Any
) -> None:
    own = write(tmp_path / "own.yaml", {"wandb": {key: "online" if key == "mode" else "of-the-file"}})
    layers = [*file_layers(own, TrialConfig), environment_layer({variable: text})]
    config, sources = assemble(TrialConfig, layers)
    assert getattr(config.wandb, key) == value
    assert sources[f"wandb.{key}"] == "environment"
    flag = flag_layer([f"--wandb.{key}", "online"], TrialConfig)
    config, sources = assemble(TrialConfig, [*layers, flag])
    assert getattr(config.wandb, key) == (["online"] if key == "tags" else "online")
    assert sources[f"wandb.{key}"] == "flag"


def test_a_key_in_the_environment_is_no_part_of_the_configuration() -> None:
    assert environment_layer({"WANDB_API_KEY": "s3cret", "WANDB_HTTP_PROXY": "http://p:1"}).values == {}


def test_the_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        TrialConfig().lora.r = 3  # type: ignore[misc]


@given(st.sampled_from(sorted(dotted_keys(TrialConfig))))
def test_every_key_is_resolved_and_every_typo_is_refused(key: str) -> None:
    default = TrialConfig()
    for name in key.split("."):
        default = getattr(default, name)
    config, _ = assemble(TrialConfig, [Layer("test", {key: default})])
    assert config == TrialConfig()
    with pytest.raises(ConfigError, match=f"unknown key '{key}_x'"):
        flag_layer([f"--{key}_x", "1"], TrialConfig)
