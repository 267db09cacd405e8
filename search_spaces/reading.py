"""Reading a space: presets and YAML files, the keys of axes and their fields, and the order of axes."""

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from search_spaces.axes import AXIS_TYPES, Axis
from trainable.config import TrialConfig
from trainable.config.layers import resolve_key, section_of
from trainable.errors import ConfigError, SpaceError, nearest


def presets() -> list[str]:
    """Return the names of the spaces that come with loratune."""
    folder = resources.files("search_spaces") / "presets"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """Return a preset's file, with the reasons for its axes in comments."""
    return (resources.files("search_spaces") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")


def read_file(spec: str) -> Any:
    """Return the content of a preset, by its name, or of a YAML file.

    Raises:
        SpaceError: there is neither, or the file is not YAML.
    """
    if spec in presets():
        return yaml.safe_load(preset_text(spec))
    path = Path(spec)
    if not path.is_file():
        raise SpaceError(
            f"search.space '{spec}' is neither a preset nor a file.{nearest(spec, presets())} "
            f"Presets: {', '.join(presets())}."
        )
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpaceError(f"space '{spec}' cannot be read as YAML: {error}") from None


def axis_key(key: str, source: str) -> str:
    """Return the dotted key that `key` names.

    Raises:
        SpaceError: there is no such key, or all trials share it.
    """
    try:
        resolved = resolve_key(key, TrialConfig, source)
    except ConfigError as error:
        raise SpaceError(str(error)) from None
    section, _ = section_of(resolved, TrialConfig)
    if section.shared_because is not None:
        raise SpaceError(
            f"{source}: '{resolved}' cannot be an axis: {section.shared_because}. "
            "Axes are keys of lora and training; run one search for each value of another key."
        )
    return resolved


def read_axis(key: str, fields: Any) -> Axis:
    """Return the axis of a key from its fields, or from an expression.

    Raises:
        SpaceError: the type or a field is unknown, or a value is not allowed.
    """
    allowed = ", ".join(AXIS_TYPES)
    if isinstance(fields, str):
        fields = {"type": "derived", "expression": fields}
    if not isinstance(fields, Mapping) or "type" not in fields:
        raise SpaceError(
            f"axis '{key}': {fields!r} must be a mapping with a `type`, or an expression such as "
            f"'2 * lora.r'. Allowed types: {allowed}."
        )
    word = str(fields["type"])
    if word not in AXIS_TYPES:
        raise SpaceError(
            f"axis '{key}': unknown type '{word}'.{nearest(word, AXIS_TYPES)} Allowed types: {allowed}."
        )
    kind = AXIS_TYPES[word]
    valid = [field.alias or name for name, field in kind.model_fields.items()]
    # What every axis has comes last in a list of fields.
    valid.sort(key=lambda name: name in Axis.model_fields)
    for name in fields:
        if name not in valid:
            raise SpaceError(
                f"axis '{key}': {word} has no field '{name}'.{nearest(str(name), valid)} "
                f"Its fields: {', '.join(valid)}."
            )
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise SpaceError(
            f"axis '{key}': {f'{where}: ' if where else ''}{message}. Fields of {word}: {', '.join(valid)}."
        ) from None


def in_order(axes: Mapping[str, Axis]) -> dict[str, Axis]:
    """Return the axes in an order in which each comes after those that it depends on.

    Raises:
        SpaceError: one depends on a key without an axis, or on itself.
    """
    needed = {key: (*axis.sources, *axis.conditions()) for key, axis in axes.items()}
    for key, sources in needed.items():
        for source in sources:
            if source not in axes:
                raise SpaceError(
                    f"axis '{key}' is made from '{source}', which is not an axis of the space."
                    f"{nearest(source, axes)} Axes: {', '.join(axes)}."
                )
    try:
        return {key: axes[key] for key in TopologicalSorter(needed).static_order()}
    except CycleError as error:
        raise SpaceError(
            f"axes are made from each other in a circle: {' -> '.join(error.args[1])}."
        ) from None
