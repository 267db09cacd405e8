"""What "better" means: the metric that trials are compared by, and the bounds that the best one keeps."""

import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from trainable.errors import ConfigError

RecordT = TypeVar("RecordT", bound=Mapping[str, Any])

Direction = Literal["min", "max"]


_BOUND = re.compile(r"\s*(?P<metric>\S+?)\s*(?P<relation><=|>=)\s*(?P<bound>\S+)\s*")


@dataclass(frozen=True)
class Constraint:
    """A bound on a metric, such as `nlg/rouge_l_f >= 0.3`.

    Attributes:
        metric: its key in a metrics record.
        relation: `<=` if the metric may be at most the bound, `>=` if at least.
        bound: a finite number.
    """

    metric: str
    relation: Literal["<=", ">="]
    bound: float

    @classmethod
    def parse(cls, text: str) -> "Constraint":
        """Read a constraint.

        Raises:
            ConfigError: the text is not a metric, `<=` or `>=`, and a finite number.
        """
        found = _BOUND.fullmatch(text)
        try:
            bound = float(found["bound"]) if found else math.nan
        except ValueError:
            bound = math.nan
        if found is None or not math.isfinite(bound):
            raise ConfigError(
                f"{text!r} is not a constraint: write a metric, <= or >=, and a number, such as "
                "'nlg/rouge_l_f >= 0.3'."
            )
        return cls(found["metric"], "<=" if found["relation"] == "<=" else ">=", bound)

    def violation(self, record: Mapping[str, Any]) -> float | None:
        """Return how far a record is beyond the bound, 0 or less within it; `None` if it lacks the metric."""
        value = finite(record.get(self.metric))
        if value is None:
            return None
        return value - self.bound if self.relation == "<=" else self.bound - value

    def __str__(self) -> str:
        """Return it as `parse` reads it."""
        return f"{self.metric} {self.relation} {self.bound:g}"


def finite(value: Any) -> float | None:
    """Return a metric's value; `None` if it is absent, no number, or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


_VIOLATES = 1e9
"""More than any metric's value."""


@dataclass(frozen=True)
class Objective:
    """The metric that trials are compared by.

    Attributes:
        metric: its key in a metrics record.
        mode: `min` if lower is better, else `max`.
        constraints: bounds that a record has to keep to count as good.
    """

    metric: str
    mode: Direction
    constraints: tuple[Constraint, ...] = field(default=(), compare=False)

    @property
    def optuna_direction(self) -> Literal["minimize", "maximize"]:
        """The direction in Optuna's words."""
        return "minimize" if self.mode == "min" else "maximize"

    def measured(self, record: Mapping[str, Any]) -> float | None:
        """Return the record's value of the metric; `None` if it is absent or not finite."""
        return finite(record.get(self.metric))

    def value(self, record: Mapping[str, Any]) -> float | None:
        """Return the value that the record competes with: `None` also if it violates a constraint."""
        violations = [constraint.violation(record) for constraint in self.constraints]
        return self.measured(record) if all(one is not None and one <= 0 for one in violations) else None

    def judged(self, record: Mapping[str, Any]) -> float:
        """Return the number that a record is judged by beside others: lower is better, NaN without a value.

        One that violates a constraint comes after all that do not, and among its like by its value: a bound
        that is reached late in training stops nobody early on.
        """
        measured = self.measured(record)
        if measured is None:
            return math.nan
        return self.cost(measured) + (0.0 if self.value(record) is not None else _VIOLATES)

    def cost(self, value: float) -> float:
        """Return a number that is lower for a better value, to sort by."""
        return value if self.mode == "min" else -value

    def is_better(self, value: float | None, than: float | None) -> bool:
        """Return whether `value` beats `than`; any value beats `None`, and `None` beats nothing."""
        if value is None:
            return False
        return than is None or self.cost(value) < self.cost(than)

    def best(self, records: Iterable[RecordT]) -> RecordT | None:
        """Return the first record with the best value; `None` if no record has one."""
        best: RecordT | None = None
        for record in records:
            if self.is_better(self.value(record), self.value(best) if best is not None else None):
                best = record
        return best


def pareto_front(records: Sequence[Mapping[str, Any]], objectives: Sequence[Objective]) -> list[int]:
    """Return the places of the records that no other record dominates, in their order.

    A record dominates another one if it is at least as good in every objective and better in one. A record
    without a value of an objective, or that violates a constraint, is on no front.
    """
    costs: dict[int, tuple[float, ...]] = {}
    for place, record in enumerate(records):
        values = [objective.value(record) for objective in objectives]
        known = [one.cost(value) for one, value in zip(objectives, values, strict=True) if value is not None]
        if len(known) == len(values):
            costs[place] = tuple(known)
    front: list[int] = []
    # In this order nothing is dominated by what comes later.
    for place in sorted(costs, key=lambda one: costs[one]):
        beaten = any(
            costs[other] != costs[place] and all(map(operator.le, costs[other], costs[place]))
            for other in front
        )
        if not beaten:
            front.append(place)
    return sorted(front)
