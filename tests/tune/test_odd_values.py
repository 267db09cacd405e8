"""No value of any key ends in anything but a configuration or one clear message."""

import math
from pathlib import Path

import pytest

from trainable.config import dotted_keys
from trainable.errors import ConfigError
from tune.config import Config

NUMBERS = [
    "nan",
    "inf",
    "-inf",
    ".inf",
    "1e400",
    "-1",
    "0",
    "0.0",
    "1",
    "1e-300",
    "1e300",
    "2147483648",
    "9" * 40,
]
TEXTS = [
    "",
    " ",
    "null",
    "None",
    "true",
    "../../x",
    "a/b",
    "x" * 300,
    "é\u0000",
    "\ud800",
    "[/INST]",
    "${HOME}",
]
SHAPES = ["[]", "{}", "[1, [2]]", "{a: 1}", "package.module:name", "sqlite:///x.db", "-", "--", "a,b,,c"]


def is_finite(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(is_finite(one) for one in value.values())
    if isinstance(value, list | tuple):
        return all(is_finite(one) for one in value)
    return True


@pytest.mark.parametrize("key", dotted_keys(Config))
def test_an_odd_value_is_taken_or_refused_in_one_message(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without a default file: reading YAML would take most of the time.
    monkeypatch.chdir(tmp_path)
    section, name = key.split(".")
    for value in (*NUMBERS, *TEXTS, *SHAPES):
        try:
            config = Config.assemble(None, [f"--{key}={value}"])
        except ConfigError as error:
            message = str(error)
        else:
            message = name
            assert is_finite(config.model_dump()[section][name]), (key, value)
        assert name in message, (key, value)


@pytest.mark.parametrize(
    "key",
    [
        *("training.learning_rate", "lora.alpha", "training.weight_decay", "training.epsilon"),
        *("training.epochs", "training.max_grad_norm", "search.timeout_s", "search.reduction_factor"),
    ],
)
@pytest.mark.parametrize("value", ["inf", ".inf", "nan", "1e400"])
def test_infinity_is_never_a_setting(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=key):
        Config.assemble(None, [f"--{key}={value}"])


@pytest.mark.parametrize("name", ["../../x", "a/b", "x" * 300, ".hidden", "a b", "-x", "a\nb"])
def test_an_experiments_name_is_a_folder_name(name: str) -> None:
    with pytest.raises(ConfigError, match="an experiment is a folder of that name"):
        Config.assemble(None, [f"--search.name={name}"])
