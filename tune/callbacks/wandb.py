"""Every trial of a search as a W&B run in the experiment's group.

A run carries its trial's whole configuration, a name and tags made from it, every metrics record once, on an
axis of its own (`step`), and ends with the state that the trial ended in: a diverged, failed or oversized
trial, and one that the search's end cut off, ends with exit code 1. The checkpoint of the best trial so far
is logged, from that trial's run, as a version of the group's collection with the aliases `best` and `latest`.

Ray's loop never waits for W&B: hooks put values into a queue that one thread takes from. What goes wrong
there becomes one warning and the search goes on; the trials' own result logs stay the durable record.
"""

import queue
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune import Checkpoint
from ray.tune.experiment import Trial
from ray.tune.logger import LoggerCallback
from wandb.sdk.wandb_run import Run

from trainable import records
from trainable.config import WandbConfig
from trainable.records import TrialState
from trainable.tracking import (
    clean_tags,
    finish_run,
    first_line,
    log_directory_artifact,
    resolve_mode,
    start_run,
    sync_command,
)
from tune.outcome import objective, outcome

_FAILED = (TrialState.FAILED, TrialState.DIVERGED, TrialState.OOM)
_CUT_OFF = "the search ended before the trial did"


@dataclass(frozen=True)
class _End:
    """What is known of a trial when it ends: its last record, and its best checkpoint with that one's record."""

    last: Mapping[str, Any]
    failed: bool
    checkpoint: Checkpoint | None
    record: Mapping[str, Any]


@dataclass
class _Tracked:
    """A trial's open run, and the last step it was told."""

    run: Run
    config: Mapping[str, Any]
    step: int = -1


class WandbLoggerCallback(LoggerCallback):
    """Logs each trial as a run of one group.

    A trial's config holds its whole configuration under `trial`, what was searched under `params`, and its
    number under `number`.
    """

    def __init__(
        self,
        wandb: WandbConfig,
        *,
        group: str,
        metric: str,
        mode: str,
        tags: Sequence[str],
        directory: Path,
        say: Callable[[str], None] = warnings.warn,
        drain_timeout_s: float = 60.0,
    ) -> None:
        """Remember how runs are made; nothing is started before the first trial.

        Args:
            wandb: the configuration's section.
            group: the experiment's name.
            metric, mode: the objective, which decides what is best.
            tags: of every run, besides the configured ones and those of its parameters.
            directory: the experiment's folder; offline runs go under its `wandb`.
            say: is told, once, what goes wrong.
            drain_timeout_s: how long the end of the experiment waits for what is not sent yet.
        """
        self._runs = _Runs(wandb, group, metric, 1.0 if mode == "min" else -1.0, tags, directory)
        self._drain_timeout_s = drain_timeout_s
        self._say = say
        self._worker: _Worker | None = None

    def log_trial_start(self, trial: Trial) -> None:
        """Begin the trial's run, unless it has one from an earlier attempt."""
        self._later(self._runs.begin, trial.trial_id, dict(trial.config))

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """Log the record: its step and every metric."""
        row = _metrics(result) | {k: result[k] for k in (records.STEP, records.FUSED_WIDTH) if k in result}
        self._later(self._runs.log, trial.trial_id, row)

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """End the run with the trial's state, and log its checkpoint if it is the best so far."""
        last = dict(trial.last_result or {})
        best = trial.run_metadata.checkpoint_manager.best_checkpoint_result
        end = (
            _End(last, failed, best.checkpoint, dict(best.metrics))
            if best
            else _End(last, failed, trial.checkpoint, last)
        )
        self._later(self._runs.end, trial.trial_id, end)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """End the runs that are still open, and wait, for a bounded time, until W&B has all it was given."""
        if self._worker is None:
            return
        deadline = time.monotonic() + self._drain_timeout_s
        self._later(self._runs.close)
        if not (self._worker.close(deadline) and self._runs.ended(deadline)):
            later = sync_command(self._runs.directory, begun_online=True)
            self._say(
                f"W&B has not taken everything in {self._drain_timeout_s:g} s. Send the rest later: {later}"
            )
        self._worker = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the thread, the runs and the terminal: Ray pickles its callbacks."""
        return self.__dict__ | {"_worker": None, "_runs": self._runs.anew(), "_say": warnings.warn}

    def _later(self, work: Callable[..., None], *values: Any) -> None:
        if self._worker is None:
            self._worker = _Worker(self._say)
            self._worker.put(self._runs.open, self._say)
        self._worker.put(work, *values)


class _Worker:
    """One thread that does what it is given, in order; an error is told once and stops nothing."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._warned = False
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def put(self, work: Callable[..., None], *values: Any) -> None:
        """Do `work(*values)` later."""
        self._queue.put(lambda: work(*values))

    def close(self, deadline: float) -> bool:
        """Take nothing more; returns whether all was done by `deadline` (of `time.monotonic`)."""
        self._queue.put(None)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work()
            except Exception as error:
                # Tracking is a guest: the search goes on, and says once that a guest is missing.
                if not self._warned:
                    self._warned = True
                    self._say(f"W&B tracking failed: {first_line(error)}. The search goes on.")


class _Runs:
    """The group's runs. Only the worker's thread calls it, but for `ended` when that thread is done."""

    def __init__(
        self, wandb: WandbConfig, group: str, metric: str, sign: float, tags: Sequence[str], directory: Path
    ) -> None:
        self.directory = directory
        self._made_with = (wandb, group, metric, sign, tags, directory)
        self._wandb = wandb
        self._group = group
        self._metric = metric
        self._sign = sign
        self._tags = list(tags)
        self._say: Callable[[str], None] = warnings.warn
        self._tracked: dict[str, _Tracked] = {}
        self._ending: list[threading.Thread] = []
        self._best: float | None = None

    def anew(self) -> "_Runs":
        """Return the same group without its open runs."""
        return _Runs(*self._made_with)
