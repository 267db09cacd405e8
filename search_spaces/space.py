"""A search space: axes over configuration keys, read from a preset, a YAML file or a mapping.

A space is checked before anything is searched: its keys exist, its axes are well formed, what an axis is
computed from is an axis too, and the configuration allows every value that can come of it.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from search_spaces.axes import AXIS_TYPES, Axis, Choice, Constant, allows, grid_of
from trainable.config import Layer, TrialConfig, assemble
from trainable.config.layers import resolve_key, section_of
from trainable.errors import ConfigError, SpaceError, nearest

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial

MAX_COMBINATIONS = 100_000
"""A grid may have this many combinations."""


def presets() -> list[str]:
    """Return the names of the spaces that come with loratune."""
    folder = resources.files("search_spaces") / "presets"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


@dataclass(frozen=True)
class Point:
    """One configuration of a space.

    Attributes:
        drawn: what Optuna draws for it, by Optuna's names.
        params: the configuration values, by dotted key.
    """

    drawn: Mapping[str, Any]
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Space:
    """Axes by dotted key, in an order in which each comes after those it is computed from."""

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
            resolved = _axis_key(str(key), f"space '{name}'")
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

    @functools.cached_property
    def distributions(self) -> "Mapping[str, BaseDistribution]":
        """The distribution of every axis that is searched, by Optuna's names."""
        found = (axis.distribution(key) for key, axis in self.axes.items())
        return dict(named for named in found if named is not None)

    @property
    def is_conditional(self) -> bool:
        """Whether some axes are searched only where others have certain values."""
        return any(axis.when for axis in self.axes.values())

    def suggest(self, trial: "BaseTrial", fixed: Mapping[str, Any] | None = None) -> Point:
        """Ask an Optuna trial for a point.

        Args:
            trial: is asked for every active axis that is searched.
            fixed: values by dotted key that are not left to the trial.
        """
        return self.resolve(lambda name, distribution: _ask(trial, name, distribution), fixed)

    def resolve(
        self, draw: "Callable[[str, BaseDistribution], Any]", fixed: Mapping[str, Any] | None = None
    ) -> Point:
        """Return the point that follows from what is drawn for each axis.

        Args:
            draw: gives a value of a distribution, by Optuna's name.
            fixed: values by dotted key that are not drawn.

        Raises:
            SpaceError: a fixed value is not on its axis.
        """
        drawn: dict[str, Any] = {}
        params: dict[str, Any] = {}
        for key, axis in self.axes.items():
            if not axis.is_active(params):
                continue
            value = None
            if (named := axis.distribution(key)) is not None:
                if fixed is not None and key in fixed:
                    value = _inverted(axis, key, fixed[key], params)
                else:
                    value = draw(*named)
                drawn[named[0]] = value
            params[key] = axis.resolve(value, params)
        return Point(drawn, params)

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

    def known_point(self, values: Mapping[str, Any], source: str) -> dict[str, Any]:
        """Check a point that a person gives; returns its values by full dotted key.

        Args:
            values: by key, for some or all axes.
            source: names the point in an error message.

        Raises:
            SpaceError: the point is not in the space.
        """
        fixed: dict[str, Any] = {}
        for name, value in values.items():
            key = _axis_key(str(name), source)
            if key not in self.axes:
                raise SpaceError(f"{source}: '{key}' is not an axis of the space. Axes: {_names(self.axes)}.")
            fixed[key] = value
        if not fixed:
            raise SpaceError(f"{source} is empty. Give a value for at least one axis.")
        for key in fixed:
            axis = self.axes[key]
            for other in (*axis.sources, *axis.conditions()):
                if other not in fixed and not isinstance(self.axes[other], Constant):
                    raise SpaceError(f"{source}: '{key}' depends on '{other}'; give its value too.")
        try:
            # What is left open is drawn later; the first value of each axis stands for it here.
            params = self.resolve(lambda name, distribution: _first(distribution), fixed).params
        except SpaceError as error:
            raise SpaceError(f"{source}: {error}") from None
        for key, value in fixed.items():
            if key not in params:
                raise SpaceError(f"{source}: '{key}' is searched only when {_condition(self.axes[key])}.")
            if self.axes[key].distribution(key) is None and params[key] != value:
                raise SpaceError(
                    f"{source}: '{key}' is {params[key]!r} by its axis and cannot be {value!r}. Leave it out."
                )
        return fixed

    def size(self) -> int | None:
        """Return an upper bound of the number of points; `None` if there are infinitely many."""
        try:
            return math.prod(len(grid_of(name, one)) for name, one in self.distributions.items())
        except SpaceError:
            return None

    def combinations(self) -> list[Point]:
        """Return every point of a finite space once, in a fixed order.

        Raises:
            SpaceError: an axis has no finite number of values, or there are too many combinations.
        """
        for key, axis in self.axes.items():
            if (named := axis.distribution(key)) is not None:
                grid_of(key, named[1])
        found = list(itertools.islice(self._walk(), MAX_COMBINATIONS + 1))
        if len(found) > MAX_COMBINATIONS:
            raise SpaceError(
                f"the space has more than {MAX_COMBINATIONS} combinations, which is too many for a grid. "
                "Give wide axes a larger step, or take another sampler."
            )
        return found

    def _walk(self) -> Iterator[Point]:
        """Yield every point; the last axis changes fastest."""
        keys = list(self.axes)

        def walk(place: int, drawn: dict[str, Any], params: dict[str, Any]) -> Iterator[Point]:
            if place == len(keys):
                yield Point(drawn, params)
                return
            key, axis = keys[place], self.axes[keys[place]]
            if not axis.is_active(params):
                yield from walk(place + 1, drawn, params)
            elif (named := axis.distribution(key)) is None:
                yield from walk(place + 1, drawn, params | {key: axis.resolve(None, params)})
            else:
                for value in grid_of(key, named[1]):
                    yield from walk(
                        place + 1, drawn | {named[0]: value}, params | {key: axis.resolve(value, params)}
                    )

        return walk(0, {}, {})

    def _check_against(self, base: TrialConfig) -> None:
        probes = self._probes()
        for key, values in probes.items():
            for value in values:
                self.apply(base, {key: value})
        for key, axis in self.axes.items():
            for other, allowed in axis.conditions().items():
                source = self.axes[other]
                if isinstance(source, Choice | Constant):
                    for value in allowed:
                        if value not in probes[other]:
                            raise SpaceError(
                                f"axis '{key}': when '{other}' is {value!r} never holds. "
                                f"Its values: {', '.join(map(repr, probes[other]))}."
                            )

    def _probes(self) -> dict[str, list[Any]]:
        """Return, by axis, values such that a configuration that allows them allows all of the axis."""
        probes: dict[str, list[Any]] = {}
        for key, axis in self.axes.items():
            for source in axis.sources:
                for value in probes[source]:
                    if isinstance(value, bool) or not isinstance(value, int | float):
                        raise SpaceError(
                            f"axis '{key}' is made from '{source}', which may be {value!r}. "
                            "Only axes that are always numbers can be used."
                        )
            probes[key] = axis.probes(probes)
        return probes


def _ask(trial: "BaseTrial", name: str, distribution: "BaseDistribution") -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    match distribution:
        case FloatDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_float(name, low, high, step=step, log=log)
        case IntDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_int(name, low, high, step=step, log=log)
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(name, choices)
        case _:
            raise TypeError(f"no way to ask for {distribution}")


def _inverted(axis: Axis, key: str, value: Any, params: Mapping[str, Any]) -> Any:
    named = axis.distribution(key)
    assert named is not None
    drawn = axis.invert(value, params)
    if not allows(named[1], drawn):
        raise SpaceError(
            f"'{key}' = {value!r} is not on its axis ({_describe(axis)}). "
            "Give a value on the axis, or widen it."
        )
    return drawn


def _first(distribution: "BaseDistribution") -> Any:
    from optuna.distributions import CategoricalDistribution

    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    return distribution.low  # type: ignore[attr-defined]


def _describe(axis: Axis) -> str:
    fields = axis.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"when"})
    return ", ".join(f"{name}: {value}" for name, value in fields.items())


def _condition(axis: Axis) -> str:
    return " and ".join(
        f"{key} is {' or '.join(map(repr, allowed))}" for key, allowed in axis.conditions().items()
    )


def _names(axes: Mapping[str, Axis]) -> str:
    return ", ".join(axes)


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


def _axis_key(key: str, source: str) -> str:
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


def _axis(key: str, fields: Any) -> Axis:
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
    valid.sort(key="when".__eq__)
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
    needed = {key: (*axis.sources, *axis.conditions()) for key, axis in axes.items()}
    for key, sources in needed.items():
        for source in sources:
            if source not in axes:
                raise SpaceError(
                    f"axis '{key}' is made from '{source}', which is not an axis of the space."
                    f"{nearest(source, axes)} Axes: {_names(axes)}."
                )
    try:
        return {key: axes[key] for key in TopologicalSorter(needed).static_order()}
    except CycleError as error:
        raise SpaceError(
            f"axes are made from each other in a circle: {' -> '.join(error.args[1])}."
        ) from None
