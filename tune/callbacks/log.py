"""Each trial's own result log: the one record of its training that survives every crash.

A metrics record becomes one JSON line of `<experiment>/<trial_id>/results.jsonl`, on the disk before Ray's
loop goes on. Ray's snapshot, W&B and the terminal can all be completed from it. Sample predictions that come
with a record replace `predictions.jsonl` beside it; histograms go to W&B alone. A disk that refuses the line
ends the search with its `OSError`: a search whose results are lost is not worth going on with.
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray import tune as ray_tune
from ray.tune.experiment import Trial

from trainable import records
from trainable.evaluation import Prediction, write_predictions
from tune.store.reader import LOG_NAME, read_log

_PLAIN_KEYS = frozenset(
    {
        records.STEP,
        records.MAX_STEPS,
        records.STATE,
        records.REASON,
        records.DEVICE,
        records.FUSED_WIDTH,
        records.WAITING,
        records.ATTEMPT,
        "training_iteration",
    }
)


class TrialLog(ray_tune.Callback):
    """Appends every record to its trial's result log, durably.

    Args:
        experiment: the experiment's folder; a trial's folder in it is named by the trial's id.
        clock: unix time in seconds.
    """

    def __init__(self, experiment: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._experiment = experiment
        self._clock = clock
        self._last_steps: dict[str, int] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Append `result`, without what Ray added to it.

        A step that the log has already, because the trial was begun again from an earlier checkpoint, is not
        written twice: training is the same each time.

        Raises:
            OSError: the disk is full or read-only.
        """
        step, path = result.get(records.STEP, 0), self._experiment / trial.trial_id / LOG_NAME
        if trial.trial_id not in self._last_steps:
            self._last_steps[trial.trial_id] = max((r[records.STEP] for r in read_log(path)), default=-1)
        if step <= self._last_steps[trial.trial_id]:
            return
        self._last_steps[trial.trial_id] = step
        record = {key: _plain(value) for key, value in result.items() if key in _PLAIN_KEYS or "/" in key}
        append(path, {"time": self._clock(), **record})
        if rows := result.get(records.PREDICTIONS):
            write_predictions(path.with_name("predictions.jsonl"), [Prediction(**row) for row in rows])


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Write one line, and wait until it is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as log:
        # A crash can have left half a line; it must not swallow this one.
        if log.tell() and log.seek(-1, os.SEEK_END) and log.read(1) != b"\n":
            log.write(b"\n")
        log.write(json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        log.flush()
        os.fsync(log.fileno())


def _plain(value: Any) -> Any:
    """Return what JSON can hold: NumPy scalars as Python's, and null for a number that is not finite."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
