"""A completed trial, and the axes that it was drawn from, with Optuna's values in a person's terms."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class Done:
    """A completed trial.

    Attributes:
        frozen: Optuna's, with what was drawn.
        number: its own.
        ended: when, in unix time.
        value: its best objective within all bounds; `None` if it kept them in no record.
        judged: what it is compared by: lower is better.
    """

    frozen: FrozenTrial
    number: int
    ended: float
    value: float | None
    judged: float


def axes(top: Sequence[Done]) -> dict[str, FloatDistribution | IntDistribution]:
    """Return the numeric axes that the trials were drawn from, by Optuna's name."""
    found: dict[str, FloatDistribution | IntDistribution] = {}
    for one in top:
        for name, distribution in one.frozen.distributions.items():
            if not isinstance(distribution, FloatDistribution | IntDistribution):
                continue
            if name in one.frozen.params and distribution.low < distribution.high:
                found.setdefault(name, distribution)
    return found


def cells_of(distribution: FloatDistribution | IntDistribution) -> int | None:
    """Return how many values an axis has; `None` of a continuous or a logarithmic one."""
    if distribution.step is None or distribution.log:
        return None
    return round((distribution.high - distribution.low) / distribution.step) + 1


def natural(name: str, drawn: float) -> float:
    """Return the value that a person knows: a rank, not its exponent."""
    return float(2**drawn) if name.startswith("log2(") else float(drawn)


def key_of(name: str) -> str:
    """Return the dotted key of Optuna's name for an axis."""
    return name.removeprefix("log2(").removesuffix(")") if name.startswith("log2(") else name


def place_in(distribution: FloatDistribution | IntDistribution, drawn: float) -> float:
    """Return where a drawn value lies in its range, from 0 to 1."""
    low, high, at = (
        math.log(one) if distribution.log else float(one)
        for one in (distribution.low, distribution.high, drawn)
    )
    return min(max((at - low) / (high - low), 0.0), 1.0)
