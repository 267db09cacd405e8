"""Writes a commented configuration for a person's own task, from the configuration models themselves."""

from pathlib import Path
from typing import Any

from search_spaces import Space
from trainable.config import Layer, assemble, dotted_keys
from trainable.data import check_files
from trainable.errors import ConfigError
from tune.config import Config
from tune.key_help import section_title, yaml_text

_VALUE_WIDTH = 46
"""Comments begin in this column; after a value that is too long for it, they stand on the line above."""

_NEUTRAL: dict[str, Any] = {
    "evaluation.metrics": ["nlg", "text"],
    "evaluation.overall_weights": {"nlg/bleu_score": 0.5, "nlg/rouge_l_f": 0.5},
    "wandb.group": None,
    "wandb.tags": [],
    "wandb.notes": None,
    "wandb.custom_metrics": ["bleu_score", "rouge_1_f", "rouge_l_f"],
}
"""In place of the defaults that belong to the shipped weather application."""

_HEAD = """\
# A loratune search, written by `loratune init`: every key with its meaning and its default. Lines that stay
# at their default can be deleted. Paths are relative to the folder that the command is run in. Any key is
# also a flag:
#     loratune search --config {file} --trials 32 --training.learning_rate 5e-5
"""


def new_config(file: Path, values: dict[str, Any]) -> Config:
    """Return the configuration that `file` is to hold: the defaults of any task, and `values` over them.

    Args:
        file: its name becomes the W&B project.
        values: by dotted key.

    Raises:
        UserError: a value is not allowed, a data file cannot be read, or the space cannot be searched.
    """
    layers = [Layer("defaults", {**_NEUTRAL, "wandb.project": file.stem}), Layer("option", values)]
    checked = Config.from_layers(layers)
    check_files(checked.data)
    Space.load(checked.search.space, checked.trial())
    # Not `checked`: its direction is filled in, and would stay when the metric is changed in the file.
    return assemble(Config, layers)[0]


def write_new(file: Path, config: Config) -> None:
    """Write a configuration with comments to a file that does not exist yet.

    Raises:
        ConfigError: the file exists, or cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as stream:
            stream.write(commented_yaml(config, _HEAD.format(file=file)))
    except FileExistsError:
        raise ConfigError(f"'{file}' exists already. Name another file, or remove it first.") from None
    except OSError as error:
        raise ConfigError(f"'{file}' cannot be written: {error.strerror}. Name another file.") from None


def commented_yaml(config: Config, head: str) -> str:
    """Return every key of a configuration as YAML, with what it means and what its default is."""
    lines = [head.rstrip("\n")]
    fields, defaults = dotted_keys(Config), Config().model_dump(mode="json")
    for section, values in config:
        lines += ["", f"# {section_title(type(values))}", f"{section}:"]
        for name, value in values.model_dump(mode="json").items():
            field = fields[f"{section}.{name}"]
            default, written = yaml_text(defaults[section][name]), yaml_text(value)
            comment = f"# {field.description}" + ("" if written == default else f" [default: {default}]")
            line = f"  {name}: {written}"
            if len(line) < _VALUE_WIDTH:
                lines.append(f"{line.ljust(_VALUE_WIDTH)}{comment}")
            else:
                lines += [f"  {comment}", line]
    return "\n".join(lines) + "\n"
