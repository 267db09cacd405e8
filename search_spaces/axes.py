"""Axes: what one configuration key may be in a search.

An axis names an Optuna distribution and turns the drawn number into the key's value. Ranks are searched as
exponents and alpha as its ratio to the rank, so that every searched axis is a plain number or a fixed choice
and a range can be widened in the middle of a study.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from search_spaces.distributions import exponent_of, is_number
from search_spaces.expressions import Expression
from trainable.config import Section

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MAX_PROBES = 64
"""An axis with more values than this is checked at a few of them."""
MAX_CHECKED = 4096
"""A derived axis is checked at no more than this many combinations of its sources' probes."""


class Axis(Section, ABC):
    """One key's values in a search.

    Attributes:
        when: conditions under which the key is set at all: another axis's key, and the value or the list of
            values that it must have. Where they do not hold, the key keeps the configuration's own value.
        first: the value in the first trial of a search; `published` on the learning rate: by a published
            formula for the base model (`search_spaces.published`). `None`: the sampler draws it.
    """

    when: dict[str, Any] | None = None
    first: Any = None

    @property
    def sources(self) -> tuple[str, ...]:
        """The keys that the value is computed from."""
        return ()

    @abstractmethod
    def distribution(self, key: str) -> "tuple[str, BaseDistribution] | None":
        """Return the name that Optuna knows the axis by, and its distribution; `None`: it is not searched.

        Args:
            key: the configuration key that the axis is of.
        """

    @abstractmethod
    def resolve(self, drawn: Any, values: Mapping[str, Any]) -> Any:
        """Return the key's value.

        Args:
            drawn: what Optuna drew from the distribution; `None` without one.
            values: of the axes that this one is computed from.
        """

    def invert(self, value: Any, values: Mapping[str, Any]) -> Any:
        """Return what Optuna must draw for `resolve` to return `value`."""
        return value

    @abstractmethod
    def probes(self, sources: Mapping[str, Sequence[Any]]) -> list[Any]:
        """Return a few values such that a configuration that allows them allows every value of the axis.

        Args:
            sources: the probes of the axes that this one is computed from.
        """

    def conditions(self) -> dict[str, list[Any]]:
        """Return `when` with a list of allowed values for each key."""
        allowed = (self.when or {}).items()
        return {key: value if isinstance(value, list) else [value] for key, value in allowed}

    def is_active(self, values: Mapping[str, Any]) -> bool:
        """Return whether the key is set, given the values of the axes before it.

        An axis that is computed from an inactive one is inactive as well.
        """
        return all(source in values for source in self.sources) and all(
            key in values and values[key] in allowed for key, allowed in self.conditions().items()
        )


class _Range(Axis):
    """An axis from `low` to `high`, both included."""

    low: float
    high: float

    @model_validator(mode="after")
    def _low_is_below_high(self) -> "_Range":
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self

    def probes(self, sources: Mapping[str, Sequence[Any]]) -> list[Any]:
        """Return both ends, and between them a number that a key of whole numbers does not allow."""
        return [self.low, self.low + (self.high - self.low) / math.pi, self.high]


class _Stepped(_Range):
    """A range whose values are `low` plus a whole number of steps; `step` may be missing."""

    step: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _steps_reach_high(self) -> "_Stepped":
        if self.step is not None:
            low, high, step = (Decimal(str(number)) for number in (self.low, self.high, self.step))
            if rest := (high - low) % step:
                raise ValueError(
                    f"high {high} is not a whole number of steps of {step} above low {low}; "
                    f"the last step is at {high - rest}"
                )
        return self

    def probes(self, sources: Mapping[str, Sequence[Any]]) -> list[Any]:
        """Return every value if there are few; else both ends and the second: the rest lie on their line."""
        if self.step is None:
            return super().probes(sources)
        count = round((self.high - self.low) / self.step) + 1
        if count <= MAX_PROBES:
            return [self.low + number * self.step for number in range(count)]
        return [self.low, self.low + self.step, self.high]


class LogUniform(_Range):
    """A float, uniform in its logarithm; for learning rates."""

    type: Literal["log_uniform"]

    @model_validator(mode="after")
    def _is_positive(self) -> "LogUniform":
        if self.low <= 0:
            raise ValueError(f"low {self.low} must be above 0 on a log scale")
        return self

    def distribution(self, key: str) -> "tuple[str, BaseDistribution]":
        """Return the float's distribution."""
        from optuna.distributions import FloatDistribution

        return key, FloatDistribution(self.low, self.high, log=True)

    def resolve(self, drawn: float, values: Mapping[str, Any]) -> float:
        """Return the drawn value."""
        return drawn


class Uniform(_Stepped):
    """A float, uniform, in steps of `step` where it is given."""

    type: Literal["uniform"]

    def distribution(self, key: str) -> "tuple[str, BaseDistribution]":
        """Return the float's distribution."""
        from optuna.distributions import FloatDistribution

        return key, FloatDistribution(self.low, self.high, step=self.step)

    def resolve(self, drawn: float, values: Mapping[str, Any]) -> float:
        """Return the drawn value."""
        return drawn


class Integer(_Stepped):
    """A whole number, in steps of `step`."""

    type: Literal["integer"]
    low: int
    high: int
    step: int = Field(1, ge=1)

    def distribution(self, key: str) -> "tuple[str, BaseDistribution]":
        """Return the whole number's distribution."""
        from optuna.distributions import IntDistribution

        return key, IntDistribution(self.low, self.high, step=self.step)

    def resolve(self, drawn: int, values: Mapping[str, Any]) -> int:
        """Return the drawn value."""
        return drawn


class PowerOfTwo(_Range):
    """1, 2, 4, 8, ...; searched as the exponent, under the name `log2(key)`."""

    type: Literal["power_of_two"]
    low: int
    high: int

    @model_validator(mode="after")
    def _are_powers(self) -> "PowerOfTwo":
        for name, value in (("low", self.low), ("high", self.high)):
            if value < 1 or value & (value - 1):
                raise ValueError(f"{name} {value} must be a power of two")
        return self

    def probes(self, sources: Mapping[str, Sequence[Any]]) -> list[Any]:
        """Return every value: there are few."""
        return [1 << exponent for exponent in range(self.low.bit_length() - 1, self.high.bit_length())]

    def distribution(self, key: str) -> "tuple[str, BaseDistribution]":
        """Return the exponent's distribution."""
        from optuna.distributions import IntDistribution

        return f"log2({key})", IntDistribution(self.low.bit_length() - 1, self.high.bit_length() - 1)

    def resolve(self, drawn: int, values: Mapping[str, Any]) -> int:
        """Return two to the power of the exponent."""
        return 1 << drawn

    def invert(self, value: Any, values: Mapping[str, Any]) -> Any:
        """Return the exponent; a number that is not a power of two comes out fractional."""
        return exponent_of(value)


class Ratio(_Range):
    """`of` times a factor, uniform in its logarithm or a power of two; for alpha over rank.

    Searched under the name `key/of`.
    """

    type: Literal["ratio"]
    of: str
    powers_of_two: bool = False

    @model_validator(mode="after")
    def _is_positive(self) -> "Ratio":
        if self.low <= 0:
            raise ValueError(f"low {self.low} must be above 0 for a ratio")
        if self.powers_of_two and any(math.log2(end) % 1 for end in (self.low, self.high)):
            raise ValueError(f"low {self.low} and high {self.high} must be powers of two")
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """The keys that the value is computed from."""
        return (self.of,)

    def probes(self, sources: Mapping[str, Sequence[Any]]) -> list[Any]:
        """Return the probes of the other axis times those of the factor."""
        factors = [self.low, 2 * self.low, self.high] if self.powers_of_two else super().probes(sources)
        return [value * factor for value in sources[self.of] for factor in factors]

    def distribution(self, key: str) -> "tuple[str, BaseDistribution]":
        """Return the distribution of the factor, or of its exponent."""
        from optuna.distributions import FloatDistribution, IntDistribution

        name = f"{key}/{self.of}"
        if self.powers_of_two:
            return f"log2({name})", IntDistribution(int(math.log2(self.low)), int(math.log2(self.high)))
        return name, FloatDistribution(self.low, self.high, log=True)

    def resolve(self, drawn: float, values: Mapping[str, Any]) -> float:
        """Return the other axis's value times the factor."""
        return values[self.of] * (2.0**drawn if self.powers_of_two else drawn)

    def invert(self, value: Any, values: Mapping[str, Any]) -> Any:
        """Return the factor, or its exponent."""
        factor = value / values[self.of] if is_number(value) else math.nan
        return exponent_of(factor) if self.powers_of_two else factor


class Choice(Axis):
    """One of a few values."""

    type: Literal["choice"]
    values: list[Any] = Field(min_length=1)

    def probes(self, sources: Mapping[str, Sequence[Any]]) -> list[Any]:
        """Return all values."""
        return list(self.values)

    def distribution(self, key: str) -> "tuple[str, BaseDistribution]":
        """Return the distribution of the value; of its index where Optuna cannot store the values."""
        from optuna.distributions import CategoricalDistribution

        if self._plain:
            return key, CategoricalDistribution(self.values)
        return f"index({key})", CategoricalDistribution(list(range(len(self.values))))

    def resolve(self, drawn: Any, values: Mapping[str, Any]) -> Any:
        """Return the chosen value."""
        return drawn if self._plain else self.values[drawn]

    def invert(self, value: Any, values: Mapping[str, Any]) -> Any:
        """Return the value, or its index; -1 if it is not among the values."""
        if self._plain:
            return value
        return self.values.index(value) if value in self.values else -1

    @property
    def _plain(self) -> bool:
        """Whether Optuna can store the values; a list, for example, is chosen by its index."""
        return all(isinstance(value, str | int | float | bool | None) for value in self.values)


class Derived(Axis):
    """A value that follows from other axes by an expression such as `2 * lora.r`; not searched.

    One other axis times a number, plus a number, may also be written with `from`, `times` and `plus`. In a
    space file an expression alone, as a string, stands for this axis.
    """

    type: Literal["derived"]
    expression: str | None = None
    source: str | None = Field(None, alias="from")
    times: float = 1
    plus: float = 0

    @model_validator(mode="after")
    def _has_one_form(self) -> "Derived":
        if (self.expression is None) == (self.source is None):
            raise ValueError("give either `expression`, or `from` with `times` and `plus`")
        if self.expression is not None:
            Expression.parse(self.expression)
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """The keys that the value is computed from."""
        return Expression.parse(self.formula).keys

    def probes(self, sources: Mapping[str, Sequence[Any]]) -> list[Any]:
        """Return the expression's value at every combination of the sources' probes, up to a limit."""
        keys = self.sources
        combinations = itertools.product(*(sources[key] for key in keys))
        return [
            self.resolve(None, dict(zip(keys, chosen, strict=True)))
            for chosen in itertools.islice(combinations, MAX_CHECKED)
        ]

    def distribution(self, key: str) -> None:
        """Return nothing: the value follows."""
        return None

    def resolve(self, drawn: Any, values: Mapping[str, Any]) -> float:
        """Return the value that follows from the other axes."""
        value = Expression.parse(self.formula)(values)
        return int(value) if float(value).is_integer() else value

    @property
    def formula(self) -> str:
        """The expression, also where it was written with `from`, `times` and `plus`."""
        if self.expression is not None:
            return self.expression
        return f"{self.source} * {self.times!r} + {self.plus!r}"


class Constant(Axis):
    """The same value in every trial."""

    type: Literal["constant"]
    value: Any

    def probes(self, sources: Mapping[str, Sequence[Any]]) -> list[Any]:
        """Return the value."""
        return [self.value]

    def distribution(self, key: str) -> None:
        """Return nothing: there is one value."""
        return None

    def resolve(self, drawn: Any, values: Mapping[str, Any]) -> Any:
        """Return the value."""
        return self.value


AXIS_TYPES: dict[str, type[Axis]] = {
    "log_uniform": LogUniform,
    "uniform": Uniform,
    "integer": Integer,
    "power_of_two": PowerOfTwo,
    "ratio": Ratio,
    "choice": Choice,
    "derived": Derived,
    "constant": Constant,
}
"""The axis types by the word that names them in YAML."""
