"""Each trial's own result log: the one record of its training that survives every crash.

A metrics record becomes one JSON line, on the disk before Ray's loop continues. Ray's snapshot, W&B and the
terminal can all be completed from it. The predictions that come with a record, which its text metrics rest
on, are appended to the trial's predictions file before it; histograms go to W&B alone. A disk that refuses a
line ends the search with its `OSError`: a search whose results are lost is not worth continuing.
"""

import time
from collections.abc import Callable
from typing import Any

from ray import tune as ray_tune
from ray.tune.experiment import Trial

from trainable.evaluation import Prediction
from trainable.records import PREDICTIONS, TIME, MetricsRecord
from tune.store.experiment import ExperimentStore


class TrialLog(ray_tune.Callback):
    """Appends every record to its trial's result log, durably.

    Args:
        store: the experiment.
        clock: unix time in seconds.
    """

    def __init__(self, store: ExperimentStore, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._last_steps: dict[str, int] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Append `result`, without what Ray added to it.

        A step that the log has already, because the trial was resumed from an earlier checkpoint, is not
        written twice: training is the same each time.

        Raises:
            OSError: the disk is full or read-only.
        """
        record, files = MetricsRecord(result), self._store.trial(trial.trial_id)
        if trial.trial_id not in self._last_steps:
            self._last_steps[trial.trial_id] = max((one.step for one in files.log()), default=-1)
            files.drop_predictions_after(self._last_steps[trial.trial_id])
        if record.step <= self._last_steps[trial.trial_id]:
            return
        if rows := record.get(PREDICTIONS):
            files.append_predictions([Prediction(**row | {"step": record.step}) for row in rows])
        files.append(MetricsRecord(record.for_log() | {TIME: self._clock()}))
        # Only now: a line that the disk refused is not in the log.
        self._last_steps[trial.trial_id] = record.step
