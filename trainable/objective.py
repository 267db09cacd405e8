"""What "better" means: the one metric a search optimizes, and its direction."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

RecordT = TypeVar("RecordT", bound=Mapping[str, Any])

Direction = Literal["min", "max"]


@dataclass(frozen=True)
class Objective:
    """The metric that trials are compared by.

    Attributes:
        metric: its key in a metrics record.
        mode: `min` if lower is better, else `max`.
    """

    metric: str
    mode: Direction

    @property
    def optuna_direction(self) -> Literal["minimize", "maximize"]:
        """The direction in Optuna's words."""
        return "minimize" if self.mode == "min" else "maximize"

    def value(self, record: Mapping[str, Any]) -> float | None:
        """Return the record's value of the metric; `None` if it is absent or not finite."""
        value = record.get(self.metric)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return None
        return float(value)

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
