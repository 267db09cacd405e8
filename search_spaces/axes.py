"""Axes: what one configuration key may be in a search.

An axis asks an Optuna trial for its value under a name of its own. Ranks are searched as exponents and alpha
as its ratio to the rank, so that every searched axis is a plain number or a fixed choice and a range can be
widened in the middle of a study.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from trainable.config import Section
from trainable.errors import SpaceError

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


class Axis(Section, ABC):
    """One key's values in a search."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The keys that the value is made from."""
        return ()

    @abstractmethod
    def probes(self, sources: Mapping[str, Sequence[Any]]) -> list[Any]:
        """Return a few values such that a configuration that allows them allows every value of the axis.

        Args:
            sources: the probes of the axes that this one is made from.
        """

    @abstractmethod
    def suggest(self, trial: "BaseTrial", key: str, values: Mapping[str, Any]) -> Any:
        """Return the trial's value.

        Args:
            trial: asked under the axis's own name.
            key: the configuration key that the axis is of.
            values: of the axes that this one is made from.
        """

    def grid(self, key: str) -> dict[str, list[Any]]:
        """Return every value by the name that Optuna knows it by; empty for what is not searched.

        Raises:
            SpaceError: there is no finite number of values.
        """
        raise SpaceError(
            f"axis '{key}' has no finite number of values to make a grid of. "
            "Give it a step or choices, or take another sampler."
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
    """A range of which every value is `low` and a whole number of steps; `step` may be missing."""

    step: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _steps_reach_high(self) -> "_Stepped":
        if self.step is not None:
            low, high, step = (Decimal(str(number)) for number in (self.low, self.high, self.step))
            if rest := (high - low) % step:
                raise ValueError(
                    f"high {high} is no whole number of steps of {step} above low {low}; "
                    f"the last step is at {high - rest}"
                )
        return self

    def probes(self, sources: Mapping[str, Sequence[Any]]) -> list[Any]:
        """Return both ends and the second value: where that is whole, so are all that follow."""
        if self.step is None:
            return super().probes(sources)
        return [self.low, self.low + self.step, self.high]

    def grid(self, key: str) -> dict[str, list[Any]]:
        """Return each step."""
        if self.step is None:
            return super().grid(key)
        count = round((self.high - self.low) / self.step) + 1
        return {key: [round(self.low + number * self.step, 12) for number in range(count)]}


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


class Uniform(_Stepped):
    """A float, uniform, in steps of `step` where it is given."""

    type: Literal["uniform"]

    def suggest(self, trial: "BaseTrial", key: str, values: Mapping[str, Any]) -> float:
        """Return the trial's value."""
        return trial.suggest_float(key, self.low, self.high, step=self.step)


class Integer(_Stepped):
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

    def probes(self, sources: Mapping[str, Sequence[Any]]) -> list[Any]:
        """Return both ends and the second value."""
        return [self.low, 2 * self.low, self.high]

    def suggest(self, trial: "BaseTrial", key: str, values: Mapping[str, Any]) -> int:
        """Return the trial's value."""
        low, high = self.low.bit_length() - 1, self.high.bit_length() - 1
        return 1 << trial.suggest_int(f"log2({key})", low, high)

    def grid(self, key: str) -> dict[str, list[Any]]:
        """Return each exponent."""
        return {f"log2({key})": list(range(self.low.bit_length() - 1, self.high.bit_length()))}


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

    def probes(self, sources: Mapping[str, Sequence[Any]]) -> list[Any]:
        """Return the probes of the other axis times those of the factor."""
        factors = [self.low, 2 * self.low, self.high] if self.powers_of_two else super().probes(sources)
        return [value * factor for value in sources[self.of] for factor in factors]

    def suggest(self, trial: "BaseTrial", key: str, values: Mapping[str, Any]) -> float:
        """Return the trial's value."""
        name = f"{key}/{self.of}"
        if self.powers_of_two:
            exponent = trial.suggest_int(f"log2({name})", int(math.log2(self.low)), int(math.log2(self.high)))
            return values[self.of] * 2.0**exponent
        return values[self.of] * trial.suggest_float(name, self.low, self.high, log=True)

    def grid(self, key: str) -> dict[str, list[Any]]:
        """Return each power of two."""
        if not self.powers_of_two:
            return super().grid(key)
        return {
            f"log2({key}/{self.of})": list(range(int(math.log2(self.low)), int(math.log2(self.high)) + 1))
        }


class Choice(Axis):
    """One of a few values."""

    type: Literal["choice"]
    values: list[Any] = Field(min_length=1)

    def probes(self, sources: Mapping[str, Sequence[Any]]) -> list[Any]:
        """Return all values."""
        return list(self.values)

    def suggest(self, trial: "BaseTrial", key: str, values: Mapping[str, Any]) -> Any:
        """Return the trial's value."""
        if self._plain:
            return trial.suggest_categorical(key, self.values)
        return self.values[trial.suggest_categorical(f"index({key})", list(range(len(self.values))))]

    def grid(self, key: str) -> dict[str, list[Any]]:
        """Return each value."""
        return {key: self.values} if self._plain else {f"index({key})": list(range(len(self.values)))}

    @property
    def _plain(self) -> bool:
        """Whether Optuna can store the values; a list, for one, is chosen by its place."""
        return all(isinstance(value, str | int | float | bool | None) for value in self.values)


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

    def probes(self, sources: Mapping[str, Sequence[Any]]) -> list[Any]:
        """Return what follows from the probes of the other axis."""
        return [self._follow(value) for value in sources[self.source]]

    def suggest(self, trial: "BaseTrial", key: str, values: Mapping[str, Any]) -> float:
        """Return the value that follows from the other axis."""
        return self._follow(values[self.source])

    def grid(self, key: str) -> dict[str, list[Any]]:
        """Return nothing: the value follows."""
        return {}

    def _follow(self, source: float) -> float:
        value = source * self.times + self.plus
        return int(value) if float(value).is_integer() else value


class Constant(Axis):
    """The same value in every trial."""

    type: Literal["constant"]
    value: Any

    def probes(self, sources: Mapping[str, Sequence[Any]]) -> list[Any]:
        """Return the value."""
        return [self.value]

    def suggest(self, trial: "BaseTrial", key: str, values: Mapping[str, Any]) -> Any:
        """Return the value."""
        return self.value

    def grid(self, key: str) -> dict[str, list[Any]]:
        """Return nothing: there is one value."""
        return {}


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
