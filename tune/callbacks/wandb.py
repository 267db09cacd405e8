"""Every trial of a Ray Tune search as a W&B run, all in one group.

A run carries its trial's configuration, a name and tags made from it, and every metrics record once, on an
axis of its own (`step`). It ends with the state that the trial ended in: a diverged, failed or oversized
trial, and one that the search's end cut off, ends with exit code 1. The checkpoints that `wandb.log_model`
asks for become versions of one collection, `NAME-adapter`; the best of the search is `best`, and `final` as
well if its trial was complete with it. W&B's Stop button on a run stops that trial alone, at its next
result.

Ray's loop never waits for W&B: hooks put values into a queue that one thread takes from, and a second thread
ends runs. A checkpoint that Ray may delete meanwhile is held by hard links. A failure becomes one warning of
its kind and the search continues; the trials' own result logs stay the durable record.

It works in anybody's own Ray Tune script too, with any configuration dictionary: see `for_any_search`.
"""

import functools
import math
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from ray.tune import Checkpoint
from ray.tune.experiment import Trial
from ray.tune.logger import LoggerCallback
from ray.tune.result import AUTO_RESULT_KEYS
from ray.tune.utils.util import flatten_dict

from trainable.config import WandbConfig
from trainable.lora.description import ModelDescription
from trainable.objective import Objective
from trainable.places import Place, name_of, shown
from trainable.records import DEVICE, ITERATION, REASON, STATE, STEP, MetricsRecord, Outcome, TrialState
from trainable.stores import local_copy
from trainable.suggestion import Suggestion
from trainable.tracking.artifacts import checkpoint_metadata
from trainable.tracking.group import Runs
from trainable.tracking.local import hold_version, run_folders, unsent_files, waiting_artifacts
from trainable.tracking.run import resolve_mode
from trainable.tracking.server import first_line
from trainable.tracking.summary import summary_run_id
from trainable.tracking.trials import RunGroup, any_trial, lora_trial

STOPPED = "stopped by a person in W&B"
"""The reason of a trial that W&B's Stop button ended."""
_RAYS_OWN = frozenset(
    {*AUTO_RESULT_KEYS, "done", "trial_id", "experiment_tag", "checkpoint_dir_name", "should_checkpoint"}
)


class WandbLoggerCallback(LoggerCallback):
    """Logs each trial as a run of one group."""

    def __init__(
        self,
        wandb: WandbConfig,
        group: RunGroup,
        held: Path,
        *,
        details: Mapping[str, Any] | None = None,
        model: ModelDescription | None = None,
        say: Callable[[str], None] = warnings.warn,
        drain_timeout_s: float = 60.0,
    ) -> None:
        """Remember how runs are made; nothing is started before the first trial.

        Args:
            wandb: the configuration's section.
            group: what the runs share.
            held: a folder for checkpoints that wait for their upload.
            details: what every run's configuration has beside its trial's, by section.
            model: the base model, if it is to be described.
            say: takes a warning.
            drain_timeout_s: how long the end of the experiment waits for what is not sent yet.
        """
        self._wandb = wandb
        self._group = group
        self._held = held
        self._details = dict(details or {})
        self._model = model
        self._say = say
        self._drain_timeout_s = drain_timeout_s
        self._enabled = resolve_mode(wandb) != "disabled"
        self._runs: Runs | None = None

    @classmethod
    def for_any_search(
        cls,
        group: str,
        *,
        metric: str,
        mode: Literal["min", "max"],
        directory: str | Path = ".",
        say: Callable[[str], None] = warnings.warn,
        **wandb: Any,
    ) -> Self:
        """Return a callback for anybody's own Ray Tune script.

        Args:
            group: the name of the runs' group; checkpoints become versions of `GROUP-adapter`.
            metric: the metric that trials are compared by.
            mode: `min` if lower is better, else `max`.
            directory: W&B's files go under `directory/wandb`.
            say: takes a warning.
            **wandb: keys of the configuration's `wandb` section, such as `project` and `tags`.
        """
        folder = Path(directory).absolute()
        neutral: dict[str, Any] = {
            "project": "ray-tune",
            "tags": [],
            "notes": None,
            "custom_metrics": [],
            "save_code": False,
        }
        settled = _Settled(folder)
        return cls(
            WandbConfig.model_validate(neutral | wandb),
            RunGroup(group, Objective(metric, mode), [], folder, settled),
            folder / ".wandb-held",
            details={"objective": {"metric": metric, "mode": mode}},
            say=say,
        )

    def log_trial_start(self, trial: Trial) -> None:
        """Start the trial's run, unless it has one from an earlier attempt."""
        config, name = trial.config, str(trial)
        if _is_suggestion(config):
            self._begin_lora(trial.trial_id, Suggestion.from_ray(config))
        else:
            describe = functools.partial(any_trial, trial.trial_id, name, config)
            self._later(
                Runs.begin,
                trial.trial_id,
                functools.partial(describe, wandb=self._wandb, details=self._details),
            )

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """Log the record; the last one of a trial that a person stopped in W&B gets that as its reason."""
        if self._is_stopped(trial) and result.get("done") and not MetricsRecord(result).state.is_terminal:
            result.update({STATE: TrialState.PRUNED.value, REASON: STOPPED})
        where = {"device": result.get(DEVICE), "node": result.get("hostname")}
        if self._group.rungs:
            # How many of the scheduler's comparisons the trial has reached.
            where["rung"] = sum(result.get(STEP, 0) >= rung for rung in self._group.rungs)
        self._later(Runs.log, trial.trial_id, _record(trial, result), where)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Have Ray stop the trials whose Stop button was pressed in W&B, each at its next result."""
        for trial in trials if self._runs is not None and self._runs.stopped else ():
            if self._is_stopped(trial):
                trial.stopping_criterion = {**trial.stopping_criterion, ITERATION: 0}

    def _is_stopped(self, trial: Trial) -> bool:
        return self._runs is not None and trial.trial_id in self._runs.stopped

    def on_checkpoint(
        self, iteration: int, trials: list[Trial], trial: Trial, checkpoint: Checkpoint, **info: Any
    ) -> None:
        """Hold the checkpoint, and log it if `log_model` asks for it."""
        if not (self._enabled and self._wandb.log_artifacts and self._wandb.log_model):
            return
        held = self._held / f"{trial.trial_id}-{Path(checkpoint.path).name}"
        try:
            # A checkpoint in a store is copied here for as long as it is read.
            with checkpoint.as_directory() as folder:
                source = Path(folder)
                if _is_suggestion(trial.config):
                    hold_version(held, source / "adapter", checkpoint_metadata(source))
                else:
                    record = _record(trial, trial.last_result or {})
                    numbers = {key: value for key, value in record.items() if _is_finite(value)}
                    hold_version(held, source, {"step": record.step, "metrics": numbers})
        except (OSError, ValueError, KeyError) as error:
            text = f"W&B could not log {checkpoint.path} as a version: {first_line(error)}."
            self._later(Runs.warn, "version", text)
        else:
            self._later(Runs.checkpoint, trial.trial_id, held)

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """End the run with the trial's state."""
        outcome = MetricsRecord(trial.last_result or {}).outcome(error=failed)
        self._later(Runs.end, trial.trial_id, outcome)

    def hold(self, trial_id: str, checkpoint: Place) -> None:
        """Hold a checkpoint whose version was lost with an earlier process, before its trial is settled."""
        held = self._held / f"{trial_id}-{name_of(checkpoint)}"
        try:
            with local_copy(checkpoint) as source:
                hold_version(held, source / "adapter", checkpoint_metadata(source))
        except (OSError, ValueError, KeyError) as error:
            self._say(f"W&B could not log {shown(checkpoint)} as a version: {first_line(error)}.")

    def settle(self, trial_id: str, suggestion: Suggestion, outcome: Outcome) -> None:
        """Complete and end the run of a trial that ended earlier, if W&B does not have all of it."""
        is_settled = self._group.settled_marker(trial_id).exists()
        if is_settled and resolve_mode(self._wandb) == "online":
            # What was complete on this disk is now to be sent.
            is_settled = not unsent_files(self._group.directory, trial_id)
        if not is_settled:
            self._begin_lora(trial_id, suggestion)
            self._later(Runs.end, trial_id, outcome)

    def settle_search(self) -> None:
        """Complete the search's own run and the marks of the best, if an earlier process could not."""
        if not (self._enabled and self._group.summarize and resolve_mode(self._wandb) == "online"):
            return
        folders = run_folders(self._group.directory, summary_run_id(self._group))
        if any(waiting_artifacts(folder) for folder in folders):
            self._later(Runs.summarize)
        elif self._group.earlier:
            self._later(Runs.check)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """End the runs that are still open, and wait, for a bounded time, until W&B has all it was given."""
        if self._runs is None:
            return
        if missing := self._runs.close(self._drain_timeout_s):
            # The checkpoints that are still held are logged on resume.
            self._say(missing)
        else:
            shutil.rmtree(self._held, ignore_errors=True)
        self._runs = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the threads, the runs and the terminal: Ray pickles its callbacks."""
        return self.__dict__ | {"_runs": None, "_say": warnings.warn}

    def _begin_lora(self, trial_id: str, suggestion: Suggestion) -> None:
        describe = functools.partial(
            lora_trial,
            trial_id,
            suggestion,
            wandb=self._wandb,
            experiment=self._group.group,
            details=self._details,
            model=self._model,
        )
        self._later(Runs.begin, trial_id, describe)

    def _later(self, work: Callable[..., None], *values: Any) -> None:
        if not self._enabled:
            return
        if self._runs is None:
            self._runs = Runs(self._wandb, self._group, self._say, self._held)
        self._runs.put(work, *values)


class _Settled:
    """Where it is noted that a run is complete, if trials have no folder for it; Ray can pickle it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(self, trial_id: str) -> Path:
        return self._directory / "wandb" / f"settled-{trial_id}"


def _is_suggestion(config: Mapping[str, Any]) -> bool:
    return {"trial", "params", "number"} <= config.keys()


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _record(trial: Trial, result: Mapping[str, Any]) -> MetricsRecord:
    """Return what is logged of a result: a metrics record, or what anybody's own trial reported.

    The step of a trial that reports none is Ray's iteration.
    """
    if _is_suggestion(trial.config):
        return MetricsRecord(result).for_tracking()
    own = {key: value for key, value in result.items() if key not in _RAYS_OWN and key != "config"}
    flat = {
        key: value.item() if hasattr(value, "item") else value for key, value in flatten_dict(own).items()
    }
    plain = {key: value for key, value in flat.items() if isinstance(value, str | int | float)}
    return MetricsRecord({STEP: result.get(ITERATION, 0)} | plain)
