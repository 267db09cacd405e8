"""A search space: axes over configuration keys, read from a preset, a YAML file or a mapping.

A space is checked as a whole before anything is searched: its keys exist, its axes are well formed, what an
axis is made from is an axis too, and the configuration allows every value that can come of it.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from search_spaces.axes import AXIS_TYPES, Axis
from trainable.config import Layer, TrialConfig, assemble
from trainable.config.layers import resolve_key, section_of
from trainable.errors import ConfigError, SpaceError, nearest

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


def presets() -> list[str]:
    """Return the names of the spaces that come with loratune."""
    folder = resources.files("search_spaces") / "presets"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


@dataclass(frozen=True)
class Space:
    """Axes by dotted key, in an order in which each comes after those it is made from."""

    axes: Mapping[str, Axis]

    @classmethod
    def load(cls, spec: str | Path | Mapping[str, Any], base: TrialConfig) -> "Space":
        """Read a space and check it against the configuration that trials start from.

        Args:
            spec: a preset's name, a YAML file, or the axes themselves.
            base: what the axes do not name.

        Raises:
            SpaceError: it cannot be searched; the message names the axis, what is wrong and what is allowed.
        """
        name, content = ("search.space", spec) if isinstance(spec, Mapping) else (str(spec), _read(str(spec)))
        if not isinstance(content, Mapping) or not content:
            raise SpaceError(f"space '{name}' must be a mapping of keys to axes, and not empty.")
        axes: dict[str, Axis] = {}
        for key, fields in content.items():
            try:
                resolved = resolve_key(str(key), TrialConfig, f"space '{name}'")
            except ConfigError as error:
                raise SpaceError(str(error)) from None
            section, _ = section_of(resolved, TrialConfig)
            if section.shared_because is not None:
                raise SpaceError(
                    f"space '{name}': '{resolved}' cannot be an axis: {section.shared_because}. "
                    "Axes are keys of lora and training; run one search for each value of another key."
                )
            if resolved in axes:
                raise SpaceError(
                    f"space '{name}': '{resolved}' has two axes. Remove one; '{key}' names it too."
                )
            axes[resolved] = _axis(resolved, fields)
        space = cls(_in_order(axes))
        space._check_against(base)
        return space

    def to_json(self) -> dict[str, Any]:
        """Return the axes as `load` takes them, in types that JSON has."""
        return {
            key: axis.model_dump(mode="json", by_alias=True, exclude_unset=True)
            for key, axis in self.axes.items()
        }

    def suggest(self, trial: "BaseTrial") -> dict[str, Any]:
        """Ask an Optuna trial for a value of every axis; returns them by dotted key."""
        values: dict[str, Any] = {}
        for key, axis in self.axes.items():
            values[key] = axis.suggest(trial, key, values)
        return values

    def apply(self, base: TrialConfig, params: Mapping[str, Any]) -> TrialConfig:
        """Return `base` with `params`, by dotted key, put in.

        Raises:
            SpaceError: the configuration does not allow a value.
        """
        start = {
            f"{section}.{name}": value
            for section, fields in base.model_dump().items()
            for name, value in fields.items()
        }
        try:
            return assemble(TrialConfig, [Layer("base", start), Layer("space", params)])[0]
        except ConfigError as error:
            raise SpaceError(str(error)) from None

    def extremes(self, key: str) -> list[Any]:
        """Return values of a key such that what allows them allows all of its axis; none without an axis."""
        return self._probes().get(key, [])

    def combinations(self) -> list[dict[str, Any]]:
        """Return every combination of values, by the names that Optuna knows them by, in a fixed order.

        Raises:
            SpaceError: an axis has no finite number of values.
        """
        grids: dict[str, list[Any]] = {}
        for key, axis in self.axes.items():
            grids |= axis.grid(key)
        return [dict(zip(grids, chosen, strict=True)) for chosen in itertools.product(*grids.values())]

    def _check_against(self, base: TrialConfig) -> None:
        for key, values in self._probes().items():
            for value in values:
                self.apply(base, {key: value})

    def _probes(self) -> dict[str, list[Any]]:
        """Return, by axis, values such that a configuration that allows them allows all of the axis."""
        probes: dict[str, list[Any]] = {}
        for key, axis in self.axes.items():
            for source in axis.sources:
                for value in probes[source]:
                    if not isinstance(value, int | float):
                        raise SpaceError(
                            f"axis '{key}' is made from '{source}', which may be {value!r}. "
                            "Only axes that are always numbers can be used."
                        )
            probes[key] = axis.probes(probes)
        return probes


def _read(spec: str) -> Any:
    if spec in presets():
        text = (resources.files("search_spaces") / "presets" / f"{spec}.yaml").read_text(encoding="utf-8")
        return yaml.safe_load(text)
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


def _axis(key: str, fields: Any) -> Axis:
    allowed = ", ".join(AXIS_TYPES)
    if not isinstance(fields, Mapping) or "type" not in fields:
        raise SpaceError(
            f"axis '{key}': {fields!r} must be a mapping with a `type`. Allowed types: {allowed}."
        )
    word = str(fields["type"])
    if word not in AXIS_TYPES:
        raise SpaceError(
            f"axis '{key}': unknown type '{word}'.{nearest(word, AXIS_TYPES)} Allowed types: {allowed}."
        )
    kind = AXIS_TYPES[word]
    valid = [field.alias or name for name, field in kind.model_fields.items()]
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


def _in_order(axes: Mapping[str, Axis]) -> dict[str, Axis]:
    for key, axis in axes.items():
        for source in axis.sources:
            if source not in axes:
                raise SpaceError(
                    f"axis '{key}' is made from '{source}', which is no axis of the space."
                    f"{nearest(source, axes)} Axes: {', '.join(axes)}."
                )
    try:
        ordered = TopologicalSorter({key: axis.sources for key, axis in axes.items()}).static_order()
        return {key: axes[key] for key in ordered}
    except CycleError as error:
        raise SpaceError(
            f"axes are made from each other in a circle: {' -> '.join(error.args[1])}."
        ) from None
