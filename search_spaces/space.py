"""A search space: axes over configuration keys, read from a preset, a YAML file or a mapping.

A space is checked before anything is searched: its keys exist, its axes are well formed, what an axis is
computed from is an axis too, and the configuration allows every value that can come of it.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces.axes import Axis, Choice, Constant, LogUniform, Uniform
from search_spaces.distributions import allows, grid_of
from search_spaces.published import PUBLISHED, published_rate
from search_spaces.reading import axis_key, in_order, read_axis, read_file
from trainable.config import Layer, TrialConfig, assemble
from trainable.errors import ConfigError, SpaceError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import BaseTrial

_RATE = "training.learning_rate"
MAX_COMBINATIONS = 100_000
"""A grid may have this many combinations."""


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
        name, content = (
            ("search.space", spec) if isinstance(spec, Mapping) else (str(spec), read_file(str(spec)))
        )
        if not isinstance(content, Mapping) or not content:
            raise SpaceError(f"space '{name}' must be a mapping of keys to axes, and not empty.")
        axes: dict[str, Axis] = {}
        for key, fields in content.items():
            resolved = axis_key(str(key), f"space '{name}'")
            if resolved in axes:
                raise SpaceError(
                    f"space '{name}': '{resolved}' has two axes. Remove one; '{key}' names it too."
                )
            axes[resolved] = read_axis(resolved, fields)
        space = cls(in_order(axes))
        space._check_against(base)
        space.first_point("", None)
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
            key = axis_key(str(name), source)
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
                raise SpaceError(f"{source}: '{key}' is searched only when {condition(self.axes[key])}.")
            if self.axes[key].distribution(key) is None and params[key] != value:
                raise SpaceError(
                    f"{source}: '{key}' is {params[key]!r} by its axis and cannot be {value!r}. Leave it out."
                )
        return fixed

    def first_point(self, architecture: str, hidden_size: int | None) -> dict[str, Any] | None:
        """Return the values that the axes name as `first`, by dotted key; `None` if none does.

        Args:
            architecture: the base model's class, which a published rate is for.
            hidden_size: the width of its residual stream; `None` if it is not known.

        Raises:
            SpaceError: a first value is not on its axis.
        """
        values = {key: axis.first for key, axis in self.axes.items() if axis.first is not None}
        for key, value in values.items():
            if value == PUBLISHED:
                axis = self.axes[key]
                if key != _RATE or not isinstance(axis, LogUniform | Uniform):
                    raise SpaceError(f"axis '{key}': first: {PUBLISHED} is for a range of {_RATE} only.")
                rate = published_rate(architecture, hidden_size)
                values[key] = min(max(rate, axis.low), axis.high)
        return self.known_point(values, "the space's first point") if values else None

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
        counts = [
            len(grid_of(key, named[1]))
            for key, axis in self.axes.items()
            if (named := axis.distribution(key)) is not None
        ]
        # Without conditions the product is the number; with them only an upper bound.
        if not self.is_conditional and math.prod(counts) > MAX_COMBINATIONS:
            raise _too_many(f"{math.prod(counts):,}")
        found = list(itertools.islice(self._walk(), MAX_COMBINATIONS + 1))
        if len(found) > MAX_COMBINATIONS:
            raise _too_many(f"up to {math.prod(counts):,}")
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


def _too_many(count: str) -> SpaceError:
    return SpaceError(
        f"the space has {count} combinations; a grid cannot have more than {MAX_COMBINATIONS:,}. "
        "Give wide axes a larger step, or take another sampler."
    )


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
    fields = axis.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"when", "first"})
    return ", ".join(f"{name}: {value}" for name, value in fields.items())


def condition(axis: Axis) -> str:
    """Return the condition of an axis in words; empty if it has none."""
    return " and ".join(
        f"{key} is {' or '.join(map(repr, allowed))}" for key, allowed in axis.conditions().items()
    )


def _names(axes: Mapping[str, Axis]) -> str:
    return ", ".join(axes)
