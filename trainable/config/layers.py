"""A configuration is laid together from layers: defaults, files, environment, flags; the later one wins.

Each layer is a flat mapping from dotted key to value that knows where it came from, so an error can say
which file or flag is wrong, and `loratune config show` can say who set a value. A YAML file may name the
file it differs from under the key `base`.
"""

import ast
import contextlib
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from trainable.config.sections import Section
from trainable.errors import ConfigError, nearest

ConfigT = TypeVar("ConfigT", bound=Section)


_OLD_MODES = {"dryrun": "offline", "run": "online"}
"""What W&B's client still takes as `WANDB_MODE`, in today's words."""


@dataclass(frozen=True)
class Layer:
    """Values by dotted key, and the name of the place they came from."""

    source: str
    values: Mapping[str, Any]


@functools.cache
def dotted_keys(model: type[Section]) -> Mapping[str, FieldInfo]:
    """Return every settable key of `model` by its dotted name."""
    keys: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            keys |= {f"{name}.{rest}": inner for rest, inner in dotted_keys(field.annotation).items()}
        else:
            keys[name] = field
    return keys


def section_of(key: str, model: type[Section]) -> tuple[type[Section], str]:
    """Return the section that has a dotted key, and the key's own name."""
    *path, name = key.split(".")
    for part in path:
        section = model.model_fields[part].annotation
        assert isinstance(section, type)
        assert issubclass(section, Section)
        model = section
    return model, name


def resolve_key(key: str, model: type[Section], source: str) -> str:
    """Return the dotted key that `key` names; the last part of it is enough where only one key ends so.

    Raises:
        ConfigError: no such key, or several; the nearest valid one is named.
    """
    allowed = dotted_keys(model)
    if key in allowed:
        return key
    named = [name for name in allowed if name.endswith(f".{key}")] if "." not in key else []
    if len(named) > 1:
        raise ConfigError(f"{source}: '{key}' may be {' or '.join(named)}. Write one of these.")
    if named:
        return named[0]
    section = [name for name in allowed if name.startswith(key.rpartition(".")[0] + ".")]
    hint = nearest(key, allowed) or (f" Allowed: {', '.join(section)}." if "." in key and section else "")
    raise ConfigError(f"{source}: unknown key '{key}'.{hint} Every key is in config/base_config.yaml.")


def file_layers(path: Path, model: type[Section], *, only: str | None = None) -> list[Layer]:
    """Read a YAML file, and before it the files it names as its `base`.

    Args:
        path: the file.
        model: what its keys are checked against.
        only: read this section and leave the others alone.

    Raises:
        ConfigError: the file is missing, is no YAML mapping, has an unknown key, or is its own base.
    """
    chain: list[Layer] = []
    seen: set[Path] = set()
    current: Path | None = path
    while current is not None:
        if current.resolve() in seen:
            raise ConfigError(f"{path}: '{current}' is its own base. Remove one of the `base:` lines.")
        seen.add(current.resolve())
        content = read_yaml(current)
        base = content.pop("base", None)
        # An experiment's stored configuration, or what `loratune config show` prints, may be given too.
        content.pop("format", None)
        if only is not None:
            content = {name: section for name, section in content.items() if name == only}
        chain.append(Layer(str(current), _flatten(content, model, str(current))))
        current = current.parent / base if base else None
    return chain[::-1]


def mapping_layer(content: Mapping[str, Any], model: type[Section], source: str) -> Layer:
    """Read a mapping of sections, of dotted keys, or of both.

    Args:
        content: what a YAML file would hold; the last part of a dotted key is enough where it is unique.
        model: what its keys are checked against.
        source: its name in error messages.

    Raises:
        ConfigError: an unknown key, or a value in place of a section.
    """
    return Layer(source, _flatten(content, model, source))


def flag_layer(flags: Sequence[str], model: type[Section]) -> Layer:
    """Read `--dotted.key value` and `--dotted.key=value` flags; values are read as YAML.

    W&B's sweep agent gives Python's literals, and a group of nested parameters as one flag:
    `--lora={'r': 16, 'alpha': 32}`.

    Raises:
        ConfigError: an unknown key, a word that is no flag, or a flag without its value.
    """
    values: dict[str, Any] = {}
    words = list(flags)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise ConfigError(f"'{word}' is no flag. Settings are given as --dotted.key VALUE.")
        key, equals, text = word[2:].partition("=")
        source = f"flag --{key}"
        is_section = _is_section(key, model)
        key = key if is_section else resolve_key(key, model, source)
        if not equals:
            if not words or words[0].startswith("--"):
                raise ConfigError(f"flag --{key} has no value. Give --{key} VALUE.")
            text = words.pop(0)
        if is_section:
            values |= _flatten({key: _read_literal(text)}, model, source)
        else:
            values[key] = _read_flag(text, dotted_keys(model)[key])
    return Layer("flag", values)


def environment_layer(environment: Mapping[str, str] | None = None) -> Layer:
    """Read the W&B variables that stand for a key: they win over files, and flags win over them."""
    env = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    names = {
        "WANDB_PROJECT": "project",
        "WANDB_ENTITY": "entity",
        "WANDB_MODE": "mode",
        "WANDB_NAME": "name",
        "WANDB_NOTES": "notes",
        "WANDB_RUN_GROUP": "group",
        "WANDB_TAGS": "tags",
    }
    for variable, key in names.items():
        if env.get(variable):
            values[f"wandb.{key}"] = env[variable]
    if mode := values.get("wandb.mode"):
        values["wandb.mode"] = _OLD_MODES.get(mode, mode)
    if env.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes", "on"):
        values["wandb.mode"] = "disabled"
    return Layer("environment", values)


def assemble(model: type[ConfigT], layers: Iterable[Layer]) -> tuple[ConfigT, dict[str, str]]:
    """Validate the layers, laid over the defaults, as one configuration.

    Returns:
        The configuration, and for each key that a layer set, the source that set it last.

    Raises:
        ConfigError: a value is not allowed; the message names key, value, source and what is allowed.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in layers:
        values |= layer.values
        sources |= dict.fromkeys(layer.values, layer.source)
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *path, last = key.split(".")
        functools.reduce(lambda branch, name: branch.setdefault(name, {}), path, nested)[last] = value
    try:
        return model.model_validate(nested), sources
    except ValidationError as error:
        raise ConfigError(_explain(error, model, values, sources)) from None


def _read_flag(text: str, field: FieldInfo) -> Any:
    """Read a flag's text as YAML, but leave it alone where the key holds a text, whatever is in it."""
    if text in ("", "null", "None"):
        return None
    of_texts = set(get_args(field.annotation) or (field.annotation,)) <= {str, NoneType}
    if of_texts and get_origin(field.annotation) is not dict:
        return text
    return _read_literal(text)


def _read_literal(text: str) -> Any:
    """Read a list or mapping as Python writes it, anything else as YAML, and what is neither as a text."""
    if text.startswith(("[", "{")):
        with contextlib.suppress(ValueError, SyntaxError):
            return ast.literal_eval(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _is_section(key: str, model: type[Section]) -> bool:
    return any(name.startswith(f"{key}.") for name in dotted_keys(model))


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the sections of a YAML file.

    Raises:
        ConfigError: the file is missing, cannot be read, or is not a YAML mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"configuration file '{path}' does not exist. Start from config/base_config.yaml."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file '{path}' cannot be read: {error}.") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """Return the sections of a configuration file's text.

    Args:
        text: the file's.
        source: names the file in messages.

    Raises:
        ConfigError: it is not a YAML mapping.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise ConfigError(f"configuration file '{source}' is not YAML: {where}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{source}: expected sections such as `lora:`, found {type(content).__name__}.")
    return content


def split_known(content: Mapping[str, Any], model: type[Section]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a file's content into the keys that `model` has and those it does not, both by dotted name."""
    known: dict[str, Any] = {}
    unknown: dict[str, Any] = {}

    def descend(mapping: Mapping[str, Any], prefix: str) -> None:
        for name, value in mapping.items():
            key = f"{prefix}{name}"
            if _is_section(key, model) and isinstance(value, dict):
                descend(value, f"{key}.")
            else:
                (known if key in dotted_keys(model) else unknown)[key] = value

    descend(content, "")
    return known, unknown


def _flatten(content: Mapping[str, Any], model: type[Section], source: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}

    def descend(mapping: Mapping[str, Any], prefix: str) -> None:
        for name, value in mapping.items():
            key = f"{prefix}{name}"
            is_section = _is_section(key, model)
            if is_section and value is None:
                continue
            if is_section and not isinstance(value, dict):
                raise ConfigError(f"{source}: '{key}' is a section of keys, not the value {value!r}.")
            if is_section:
                descend(value, f"{key}.")
            else:
                flat[resolve_key(key, model, source)] = value

    descend(content, "")
    return flat


def _explain(
    error: ValidationError, model: type[Section], values: Mapping[str, Any], sources: Mapping[str, str]
) -> str:
    """Tell the first thing wrong: where, the value, what is allowed."""
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    key = next(
        (".".join(location[:n]) for n in range(len(location), 0, -1) if ".".join(location[:n]) in values), ""
    )
    message = first["msg"].removeprefix("Value error, ")
    if not key:
        return f"{message}. See config/base_config.yaml."
    choices = get_args(dotted_keys(model)[key].annotation)
    literals = [str(word) for choice in choices for word in (get_args(choice) or (choice,))]
    if first["type"] == "literal_error":
        message = f"allowed: {', '.join('null' if word == str(NoneType) else word for word in literals)}"
    others = len({tuple(e["loc"][:2]) for e in error.errors()}) - 1
    more = f" ({others} more wrong)" if others else ""
    description = dotted_keys(model)[key].description
    meaning = f" {key}: {description}." if description else ""
    return f"{sources[key]}: {key} = {values[key]!r} is not allowed: {message}.{meaning}{more}"
