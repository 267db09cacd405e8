"""What trials have cost, by their records: tokens, and device time, which the trials of a pack share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from trainable.records import FUSED_WIDTH, TIME, TRAIN_TOKENS_PER_SECOND, MetricsRecord


@dataclass
class Cost:
    """Sums over trials, from each record to the next; what an attempt does before its first is left out.

    Attributes:
        device_s: seconds of devices; those that several trials trained in at once count once.
        tokens: tokens trained on.
    """

    device_s: float = 0.0
    tokens: float = 0.0
    _before: dict[str, tuple[int, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, logs: Mapping[str, Iterable[MetricsRecord]]) -> "Cost":
        """Return the cost of trials, by their result logs."""
        cost = cls()
        for trial_id, log in logs.items():
            for record in log:
                if (at := record.get(TIME)) is not None:
                    cost.add(trial_id, record, at)
        return cost

    def add(self, trial_id: str, record: MetricsRecord, at: float) -> None:
        """Count a trial's next record.

        Args:
            trial_id: the trial's.
            record: the record.
            at: when it was reported, in unix time.
        """
        attempt, before = self._before.get(trial_id, (0, at))
        # Between two attempts the trial waited; its clock may be another machine's.
        seconds = max(at - before, 0.0) if attempt == record.attempt else 0.0
        self.device_s += seconds / max(record.get(FUSED_WIDTH) or 1.0, 1.0)
        self.tokens += seconds * (record.get(TRAIN_TOKENS_PER_SECOND) or 0.0)
        self._before[trial_id] = record.attempt, at
