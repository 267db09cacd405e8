"""Every trial of a search as a W&B run in the experiment's group.

A run carries its trial's whole configuration, what the model and the data are, a name and tags made from it,
and every metrics record once, on an axis of its own (`step`). It ends with the state that the trial ended in:
a diverged, failed or oversized trial, and one that the search's end cut off, ends with exit code 1. The
checkpoints that `wandb.log_model` asks for become versions of one collection, `NAME-adapter`; the best so far
of the whole search is `best`, and `final` as well if its trial was complete with it.

Ray's loop never waits for W&B: hooks put values into a queue that one thread takes from, and a second thread
ends runs. A checkpoint that Ray may delete meanwhile is held by hard links. What goes wrong there becomes one
warning and the search goes on; the trials' own result logs stay the durable record.
"""

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Checkpoint
from ray.tune.experiment import Trial
from ray.tune.logger import LoggerCallback

from trainable.config import WandbConfig
from trainable.records import MetricsRecord, Outcome
from trainable.suggestion import Suggestion
from trainable.tracking.group import RunGroup, Runs
from trainable.tracking.run import first_line, resolve_mode, sync_command


class WandbLoggerCallback(LoggerCallback):
    """Logs each trial as a run of one group. A trial's Ray configuration is a `Suggestion`."""

    def __init__(
        self,
        wandb: WandbConfig,
        group: RunGroup,
        held: Path,
        *,
        say: Callable[[str], None] = warnings.warn,
        drain_timeout_s: float = 60.0,
    ) -> None:
        """Remember how runs are made; nothing is started before the first trial.

        Args:
            wandb: the configuration's section.
            group: what the runs share.
            held: a folder for checkpoints that wait for their upload.
            say: takes a line on what goes wrong; once.
            drain_timeout_s: how long the end of the experiment waits for what is not sent yet.
        """
        self._wandb = wandb
        self._group = group
        self._held = held
        self._say = say
        self._drain_timeout_s = drain_timeout_s
        self._enabled = resolve_mode(wandb) != "disabled"
        self._runs: Runs | None = None

    def log_trial_start(self, trial: Trial) -> None:
        """Begin the trial's run, unless it has one from an earlier attempt."""
        self._later(Runs.begin, trial.trial_id, Suggestion.from_ray(trial.config))

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """Log the record: its step, every metric, histograms and predictions."""
        self._later(Runs.log, trial.trial_id, MetricsRecord(result).for_tracking())

    def on_checkpoint(
        self, iteration: int, trials: list[Trial], trial: Trial, checkpoint: Checkpoint, **info: Any
    ) -> None:
        """Hold the checkpoint, and log it if `log_model` asks for it."""
        if not (self._enabled and self._wandb.log_artifacts and self._wandb.log_model):
            return
        source = Path(checkpoint.path)
        held = self._held / f"{trial.trial_id}-{source.name}"
        try:
            _hold(source, held)
        except OSError as error:
            self._later(Runs.warn, f"W&B has no version of {source}: {first_line(error)}.")
        else:
            self._later(Runs.checkpoint, trial.trial_id, held)

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """End the run with the trial's state."""
        outcome = MetricsRecord(trial.last_result or {}).outcome(error=failed)
        self._later(Runs.end, trial.trial_id, outcome)

    def settle(self, trial_id: str, suggestion: Suggestion, outcome: Outcome) -> None:
        """Complete and end the run of a trial that ended earlier, if W&B has not all of it."""
        if not self._group.settled_marker(trial_id).exists():
            self._later(Runs.begin, trial_id, suggestion)
            self._later(Runs.end, trial_id, outcome)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """End the runs that are still open, and wait, for a bounded time, until W&B has all it was given."""
        if self._runs is None:
            return
        if not self._runs.close(self._drain_timeout_s):
            later = sync_command(self._group.directory, begun_online=True)
            self._say(
                f"W&B has not taken everything in {self._drain_timeout_s:g} s. Send the rest later: {later}"
            )
        self._runs = None
        shutil.rmtree(self._held, ignore_errors=True)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the threads, the runs and the terminal: Ray pickles its callbacks."""
        return self.__dict__ | {"_runs": None, "_say": warnings.warn}

    def _later(self, work: Callable[..., None], *values: Any) -> None:
        if not self._enabled:
            return
        if self._runs is None:
            self._runs = Runs(self._wandb, self._group, self._say)
        self._runs.put(work, *values)


def _hold(source: Path, held: Path) -> None:
    """Make `held` a second name of what a version needs of the checkpoint `source`."""
    shutil.rmtree(held, ignore_errors=True)
    held.mkdir(parents=True)
    for path in (source / "state.json", *sorted((source / "adapter").iterdir())):
        link = held / path.relative_to(source)
        link.parent.mkdir(exist_ok=True)
        try:
            os.link(path, link)
        except OSError:
            # A file system without hard links.
            shutil.copyfile(path, link)
