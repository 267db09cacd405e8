"""What became of a trial, told once and in the same words to the sampler, W&B, the log and the terminal."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainable import records
from trainable.records import ERROR_NAME, TrialState


def outcome(record: Mapping[str, Any] | None, *, error: bool = False) -> tuple[TrialState, str | None]:
    """Return the state a trial ended in, and why.

    A trial says itself that it completed, diverged or ran out of memory. One whose last record says
    `running` was stopped from outside, by the scheduler, unless Ray reports an error.

    Args:
        record: the trial's last metrics record; `None` if it never reported.
        error: whether Ray ended the trial with an error.
    """
    said = TrialState((record or {}).get(records.STATE, TrialState.RUNNING))
    reason = (record or {}).get(records.REASON)
    if said.is_end:
        return said, reason
    if error or not record:
        return TrialState.FAILED, reason or "the trial's process ended with an error"
    return TrialState.PRUNED, f"stopped by the scheduler at step {record.get(records.STEP)}"


def last_error(trial: Path) -> str | None:
    """Return the last line of the error that ended an attempt at the trial in this folder, if any."""
    path = trial / ERROR_NAME
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), None)


def objective(record: Mapping[str, Any] | None, metric: str) -> float | None:
    """Return the record's finite value of `metric`, or `None`."""
    value = (record or {}).get(metric)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
