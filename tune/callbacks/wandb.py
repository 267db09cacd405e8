"""Every trial of a search as a W&B run in the experiment's group.

A run carries its trial's whole configuration, a name and tags made from it, every metrics record once, on an
axis of its own (`step`), and ends with the state that the trial ended in: a diverged, failed or oversized
trial ends with exit code 1. The checkpoint of the best trial so far is logged, from that trial's run, as a
version of the group's collection with the aliases `best` and `latest`.

Ray's loop never waits for W&B: hooks put work into a queue that one thread takes from. What goes wrong there
becomes one warning and the search goes on; the trials' own result logs stay the durable record.
"""

import queue
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.tune import Checkpoint
from ray.tune.experiment import Trial
from ray.tune.logger import LoggerCallback
from wandb.sdk.wandb_run import Run

from trainable import records
from trainable.config import WandbConfig
from trainable.records import TrialState
from trainable.tracking import finish_run, log_directory_artifact, resolve_mode, start_run, sync_command
from tune.outcome import objective, outcome

MAX_TAG_LENGTH = 64
_FAILED = (TrialState.FAILED, TrialState.DIVERGED, TrialState.OOM)


class WandbLoggerCallback(LoggerCallback):
    """Logs each trial as a run of one group."""

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
        self._wandb = wandb
        self._group = group
        self._metric = metric
        self._sign = 1.0 if mode == "min" else -1.0
        self._tags = list(tags)
        self._directory = directory
        self._say = say
        self._drain_timeout_s = drain_timeout_s
        self._enabled = resolve_mode(wandb) != "disabled"
        self._best: float | None = None
        self._warned = False
        self._start_worker()

    def log_trial_start(self, trial: Trial) -> None:
        """Begin the trial's run."""
        trial_id, config = trial.trial_id, dict(trial.config)
        self._later(lambda: self._begin(trial_id, config))

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        """Log the record: its step and every metric."""
        trial_id = trial.trial_id
        row = {key: value for key, value in result.items() if "/" in key and not key.startswith("config/")}
        row |= {key: result[key] for key in (records.STEP, records.FUSED_WIDTH) if key in result}
        self._later(lambda: self._runs[trial_id].log(row) if trial_id in self._runs else None)

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        """End the run with the trial's state, and log its checkpoint if it is the best so far."""
        trial_id, last = trial.trial_id, dict(trial.last_result or {})
        best = trial.run_metadata.checkpoint_manager.best_checkpoint_result
        checkpoint = best.checkpoint if best else trial.checkpoint
        record = dict(best.metrics) if best else last
        config = dict(trial.config)
        self._later(lambda: self._end(trial_id, config, last, failed, checkpoint, record))

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Wait, for a bounded time, until W&B has what it was given."""
        self._queue.put(None)
        self._worker.join(self._drain_timeout_s)
        if self._worker.is_alive():
            self._say(
                f"W&B has not taken everything in {self._drain_timeout_s:g} s. "
                f"Send the rest later: {sync_command(self._directory)}"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the thread, the queue and the runs: Ray pickles its callbacks."""
        live = ("_queue", "_worker", "_runs", "_say")
        return {key: value for key, value in self.__dict__.items() if key not in live}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start anew."""
        self.__dict__.update(state, _say=warnings.warn)
        self._start_worker()

    def _start_worker(self) -> None:
        self._runs: dict[str, Run] = {}
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._worker = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._worker.start()

    def _later(self, work: Callable[[], None]) -> None:
        if self._enabled:
            self._queue.put(work)

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work()
            except Exception as error:
                # Tracking is a guest: the search goes on, and says once that a guest is missing.
                if not self._warned:
                    self._say(f"W&B tracking failed: {error!r}. The search goes on.")
                self._warned = True

    def _begin(self, trial_id: str, config: Mapping[str, Any]) -> None:
        if trial_id in self._runs:
            return
        tags = [*self._wandb.tags, *self._tags, *_parameter_tags(config)]
        run = start_run(
            self._wandb,
            self._directory,
            self._say,
            id=trial_id,
            name=_name(self._wandb.name, config),
            group=self._group,
            job_type="trial",
            tags=[tag[:MAX_TAG_LENGTH] for tag in dict.fromkeys(tags)],
            config=dict(config["trial"]),
        )
        if run is not None:
            self._runs[trial_id] = run

    def _end(
        self,
        trial_id: str,
        config: Mapping[str, Any],
        last: Mapping[str, Any],
        failed: bool,
        checkpoint: Checkpoint | None,
        record: Mapping[str, Any],
    ) -> None:
        run = self._runs.pop(trial_id, None)
        if run is None:
            return
        state, reason = outcome(last, error=failed)
        run.summary.update({records.STATE: state.value, records.REASON: reason})
        value = objective(record, self._metric)
        if checkpoint is not None and value is not None and self._is_best(value):
            self._log_best(run, config, checkpoint, record)
        finish_run(run, exit_code=1 if state in _FAILED else 0)

    def _is_best(self, value: float) -> bool:
        if self._best is not None and self._sign * value >= self._sign * self._best:
            return False
        self._best = value
        return self._wandb.log_artifacts and bool(self._wandb.log_model)

    def _log_best(
        self, run: Run, config: Mapping[str, Any], checkpoint: Checkpoint, record: Mapping[str, Any]
    ) -> None:
        trial = config["trial"]
        metadata = {
            "step": record.get(records.STEP),
            "metrics": {key: value for key, value in record.items() if "/" in key},
            "params": dict(config["params"]),
            "base_model": trial["model"]["name"],
            "rank": trial["lora"]["r"],
            "alpha": trial["lora"]["alpha"],
        }
        with checkpoint.as_directory() as folder:
            log_directory_artifact(run, Path(folder), f"{self._group}-adapter", ["best", "latest"], metadata)


def _parameter_tags(config: Mapping[str, Any]) -> list[str]:
    lora = config["trial"]["lora"]
    return [f"r={lora['r']}", f"alpha={lora['alpha']:g}"]


def _name(prefix: str | None, config: Mapping[str, Any]) -> str:
    lora, rate = config["trial"]["lora"], config["trial"]["training"]["learning_rate"]
    mantissa, exponent = f"{rate:.1e}".split("e")
    made = f"trial-{config['number']:04d}-r{lora['r']}-a{lora['alpha']:g}-lr{mantissa}e{int(exponent)}"
    return f"{prefix}-{made}" if prefix else made
