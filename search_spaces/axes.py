"""Axes: what one configuration key may be in a search.

An axis asks an Optuna trial for its value under a name of its own. Ranks are searched as exponents and alpha
as its ratio to the rank, so that every searched axis is a plain number or a fixed choice and a range can be
widened in the middle of a study.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from trainable.config import Section

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


class Axis(Section, ABC):
    """One key's values in a search."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The keys that the value is made from."""
        return ()

    def ends(self) -> list[Any]:
        """Return the values that the configuration must allow for every one between to be allowed."""
        return []

    @abstractmethod
    def suggest(self, trial: "BaseTrial", key: str, values: Mapping[str, Any]) -> Any:
        """Return the trial's value.

        Args:
            trial: asked under the axis's own name.
            key: the configuration key that the axis is of.
            values: of the axes that this one is made from.
        """


class _Range(Axis):
    """An axis from `low` to `high`, both included."""

    low: float
    high: float

    @model_validator(mode="after")
    def _low_is_below_high(self) -> "_Range":
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self

    def ends(self) -> list[Any]:
        """Return both ends."""
        return [self.low, self.high]


class LogUniform(_Range):
    """A float, uniform in its logarithm; for learning rates."""

    type: Literal["log_uniform"]

    @model_validator(mode="after")
    def _is_positive(self) -> "LogUniform":
        if self.low <= 0:
            raise ValueError(f"low {self.low} must be above 0 on a log scale")
        return self

    def suggest(self, trial: "BaseTrial", key: str, values: Mapping[str, Any]) -> float:
        """Return the trial's value."""
        return trial.suggest_float(key, self.low, self.high, log=True)


class Uniform(_Range):
    """A float, uniform, in steps of `step` where it is given."""

    type: Literal["uniform"]
    step: Annotated[float, Field(gt=0)] | None = None

    def suggest(self, trial: "BaseTrial", key: str, values: Mapping[str, Any]) -> float:
        """Return the trial's value."""
        return trial.suggest_float(key, self.low, self.high, step=self.step)


class Integer(_Range):
    """A whole number, in steps of `step`."""

    type: Literal["integer"]
    low: int
    high: int
    step: int = Field(1, ge=1)

    def suggest(self, trial: "BaseTrial", key: str, values: Mapping[str, Any]) -> int:
        """Return the trial's value."""
        return trial.suggest_int(key, self.low, self.high, step=self.step)


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

    def suggest(self, trial: "BaseTrial", key: str, values: Mapping[str, Any]) -> int:
        """Return the trial's value."""
        low, high = self.low.bit_length() - 1, self.high.bit_length() - 1
        return 1 << trial.suggest_int(f"log2({key})", low, high)


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
        """The keys that the value is made from."""
        return (self.of,)

    def ends(self) -> list[Any]:
        """Return nothing: what is allowed depends on the other axis."""
        return []

    def suggest(self, trial: "BaseTrial", key: str, values: Mapping[str, Any]) -> float:
        """Return the trial's value."""
        name = f"{key}/{self.of}"
        if self.powers_of_two:
            exponent = trial.suggest_int(f"log2({name})", int(math.log2(self.low)), int(math.log2(self.high)))
            return values[self.of] * 2.0**exponent
        return values[self.of] * trial.suggest_float(name, self.low, self.high, log=True)


class Choice(Axis):
    """One of a few values."""

    type: Literal["choice"]
    values: list[Any] = Field(min_length=1)

    def ends(self) -> list[Any]:
        """Return the values that the configuration must allow."""
        return list(self.values)

    def suggest(self, trial: "BaseTrial", key: str, values: Mapping[str, Any]) -> Any:
        """Return the trial's value."""
        plain = all(isinstance(value, str | int | float | bool | None) for value in self.values)
        if plain:
            return trial.suggest_categorical(key, self.values)
        # Optuna stores plain values only; a list is chosen by its place.
        return self.values[trial.suggest_categorical(f"index({key})", list(range(len(self.values))))]


class Derived(Axis):
    """Another axis's value, times `times`, plus `plus`; not searched."""

    type: Literal["derived"]
    source: str = Field(alias="from")
    times: float = 1
    plus: float = 0

    @property
    def sources(self) -> tuple[str, ...]:
        """The keys that the value is made from."""
        return (self.source,)

    def suggest(self, trial: "BaseTrial", key: str, values: Mapping[str, Any]) -> float:
        """Return the value that follows from the other axis."""
        value = values[self.source] * self.times + self.plus
        return int(value) if value == int(value) else value


class Constant(Axis):
    """The same value in every trial."""

    type: Literal["constant"]
    value: Any

    def ends(self) -> list[Any]:
        """Return the value that the configuration must allow."""
        return [self.value]

    def suggest(self, trial: "BaseTrial", key: str, values: Mapping[str, Any]) -> Any:
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
