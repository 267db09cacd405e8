"""What an Optuna distribution allows, and its values where they are finite."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainable.errors import SpaceError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def allows(distribution: "BaseDistribution", value: Any) -> bool:
    """Return whether a value can be drawn from a distribution."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return any(value == choice and type(value) is type(choice) for choice in distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if not is_number(value) or not math.isfinite(value):
        return False
    if not distribution.low <= value <= distribution.high:
        return False
    if distribution.step is None or (isinstance(distribution, IntDistribution) and distribution.log):
        return True
    steps = (value - distribution.low) / distribution.step
    return math.isclose(steps, round(steps), abs_tol=1e-8)


def grid_of(key: str, distribution: "BaseDistribution") -> Sequence[Any]:
    """Return every value of a distribution, in order; nothing is built for a wide range.

    Raises:
        SpaceError: it has no finite number of values.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1, distribution.step)
    assert isinstance(distribution, FloatDistribution)
    if distribution.step is None:
        raise SpaceError(
            f"axis '{key}' has no finite number of values to make a grid of. "
            "Give it a step or choices, or take another sampler."
        )
    count = round((distribution.high - distribution.low) / distribution.step) + 1
    return _Steps(distribution.low, distribution.step, count)


class _Steps(Sequence[float]):
    """`count` numbers from `low`, in steps."""

    def __init__(self, low: float, step: float, count: int) -> None:
        self._low, self._step, self._count = low, step, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return round(self._low + index * self._step, 12)


def is_number(value: Any) -> bool:
    """Return whether a value is a number; `True` and `False` are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def exponent_of(value: Any) -> Any:
    """Return log2 of a positive number, as an `int` if it is whole; what has none comes back as NaN."""
    if not is_number(value) or not 0 < value < math.inf:
        return math.nan
    exponent = math.log2(value)
    return int(exponent) if exponent.is_integer() else exponent
