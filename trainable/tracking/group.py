"""The runs of a search's trials, told from a thread of their own.

One thread begins runs and tells them what happens, in order; a second ends them, which can take W&B a while.
An error becomes one warning and stops nothing.
"""

import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainable import records
from trainable.config import TrialConfig, WandbConfig
from trainable.evaluation.catalogue import Catalogue
from trainable.lora.description import ModelDescription
from trainable.objective import Objective
from trainable.records import MetricsRecord, Outcome, TrialState
from trainable.suggestion import Suggestion
from trainable.tracking.artifacts import (
    checkpoint_aliases,
    checkpoint_metadata,
    data_manifest,
    log_code,
    log_model,
    use_data,
)
from trainable.tracking.run import (
    RunLog,
    clean_tags,
    continued_id,
    finish_run,
    first_line,
    last_step_of,
    resolve_mode,
    send_offline,
    start_run,
    sync_command,
    unknown_metrics,
)

_SUCCEEDED = (TrialState.COMPLETED, TrialState.PRUNED)
_CUT_OFF = "the search ended before the trial did; it can be resumed"


@dataclass(frozen=True)
class RunGroup:
    """What the runs of one search share.

    Attributes:
        group: the experiment's name.
        objective: decides which run is the best.
        tags: of every run, besides the configured ones and those of its parameters.
        directory: the experiment's folder; offline runs go under its `wandb`.
        settled_marker: gives, by trial id, the file that says that W&B has everything of a run.
        model: the base model, if it is to be described.
        data_hash: of the rows, if they are to be versioned.
        earlier: the logs of trials that an earlier run of the search has begun, by their id.
    """

    group: str
    objective: Objective
    tags: Sequence[str]
    directory: Path
    settled_marker: Callable[[str], Path]
    model: ModelDescription | None = None
    data_hash: str | None = None
    earlier: Mapping[str, Sequence[MetricsRecord]] = field(default_factory=dict)

    @property
    def earlier_best(self) -> float | None:
        """The best objective that the search had before it was interrupted."""
        best = self.objective.best(record for log in self.earlier.values() for record in log)
        return self.objective.value(best) if best else None


@dataclass
class _Tracked:
    """A trial's open run, what it was told last, and the best of it."""

    log: RunLog
    suggestion: Suggestion
    step: int = -1
    best: dict[str, Any] = field(default_factory=dict)
    held: Path | None = None


class _Worker:
    """One thread that does what it is given, in order; an error is told and stops nothing."""

    def __init__(self, name: str, on_error: Callable[[Exception], None]) -> None:
        self._on_error = on_error
        self._queue: queue.Queue[Callable[[], Any] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, work: Callable[[], Any]) -> None:
        """Do `work` later."""
        self._queue.put(work)

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
                self._on_error(error)


class Runs:
    """The group's runs. Only its own thread calls what is put into it."""

    def __init__(self, wandb: WandbConfig, group: RunGroup, say: Callable[[str], None]) -> None:
        self._wandb = wandb
        self._group = group
        self._say = say
        self._warned = False
        self._tracked: dict[str, _Tracked] = {}
        self._best = group.earlier_best
        self._first = not group.earlier
        self._manifest: dict[str, Any] | None = None
        self._telling = _Worker("wandb", self._fail)
        self._ending = _Worker("wandb-end", self._fail)
        self._unfinished = False

    def put(self, work: Callable[..., None], *values: Any) -> None:
        """Do `work(self, *values)` later."""
        self._telling.put(lambda: work(self, *values))

    def close(self, timeout_s: float) -> bool:
        """End what is open; returns whether W&B has everything within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        self.put(Runs.cut_off)
        return self._telling.close(deadline) and self._ending.close(deadline) and not self._unfinished

    def warn(self, text: str) -> None:
        """Say what goes wrong, the first time."""
        # Tracking is a guest: the search goes on, and says once that a guest is missing.
        if not self._warned:
            self._warned = True
            self._say(f"{text} The search goes on.")

    def begin(self, trial_id: str, suggestion: Suggestion) -> None:
        """Begin a trial's run with all that is known of the trial before it trains."""
        if trial_id in self._tracked:
            return
        group, trial = self._group, suggestion.config
        params = dict(suggestion.params)
        searched = {"experiment": group.group, "number": suggestion.number, "params": params}
        lora = trial.lora
        tags = [*self._wandb.tags, group.group, *group.tags, f"r={lora.r}", f"alpha={lora.alpha:g}"]
        if trial_id in group.earlier and resolve_mode(self._wandb) == "online":
            self._send_offline(trial_id)
        run = start_run(
            self._wandb,
            group.directory,
            self._say_once,
            id=continued_id(group.directory, trial_id),
            name=_name(self._wandb.name, suggestion.number, trial),
            group=group.group,
            job_type="trial",
            tags=clean_tags(tags),
            config=trial.model_dump(mode="json") | {"searched": searched},
        )
        if run is None:
            return
        if run.offline:
            # A server that one run could not reach is not waited for by every other.
            self._wandb = self._wandb.model_copy(update={"mode": "offline"})
        catalogue = Catalogue.of(trial.evaluation.metrics)
        self._tracked[trial_id] = _Tracked(RunLog(run, self._wandb, catalogue), suggestion)
        if trial_id in group.earlier:
            self._complete(trial_id, last_step_of(run, group.directory))
        if self._first and (warning := unknown_metrics(self._wandb, catalogue)):
            self._say(warning)
        is_first, self._first = self._first, False
        if self._wandb.watch_model and group.model is not None:
            run.config.update({"model_summary": group.model.with_adapter(lora)})
        if self._wandb.log_artifacts and group.data_hash is not None:
            self._manifest = self._manifest or data_manifest(trial.data, group.data_hash)
            use_data(run, self._manifest, f"data-{self._wandb.project}")
        if self._wandb.log_artifacts and self._wandb.save_code and is_first:
            log_code(run, Path.cwd(), f"source-{self._wandb.project}")

    def _send_offline(self, trial_id: str) -> None:
        try:
            send_offline(self._group.directory, trial_id)
        except (OSError, subprocess.SubprocessError):
            # What cannot be sent in order is gone on with offline.
            self._wandb = self._wandb.model_copy(update={"mode": "offline"})
            later = sync_command(self._group.directory)
            self.warn(f"W&B does not take the runs that were kept offline. Send them later: {later}.")

    def _complete(self, trial_id: str, sent: int) -> None:
        """Send what an interrupted process had in its log and W&B had not taken."""
        for record in self._group.earlier[trial_id]:
            if record.step > sent:
                self.log(trial_id, record)
            else:
                self._remember(trial_id, record)

    def log(self, trial_id: str, record: MetricsRecord) -> None:
        """Log a record, unless an earlier attempt of the trial has logged it."""
        tracked = self._tracked.get(trial_id)
        if tracked is None or record.step <= tracked.step:
            return
        self._remember(trial_id, record)
        tracked.log.log_record(record)

    def _remember(self, trial_id: str, record: MetricsRecord) -> None:
        tracked = self._tracked[trial_id]
        tracked.step = record.step
        objective = self._group.objective
        best_key = f"best/{objective.metric}"
        value = objective.value(record)
        if objective.is_better(value, tracked.best.get(best_key)):
            tracked.best = {best_key: value, "best/step": tracked.step}

    def checkpoint(self, trial_id: str, held: Path) -> None:
        """Log a checkpoint that is held, or keep it until its trial has ended."""
        tracked = self._tracked.get(trial_id)
        if tracked is None:
            shutil.rmtree(held, ignore_errors=True)
        elif self._wandb.log_model == "end":
            if tracked.held is not None:
                shutil.rmtree(tracked.held, ignore_errors=True)
            tracked.held = held
        else:
            self._version(tracked, held)

    def end(self, trial_id: str, outcome: Outcome) -> None:
        """End a run with what became of its trial."""
        tracked = self._tracked.pop(trial_id, None)
        if tracked is None:
            return
        run = tracked.log.run
        try:
            if tracked.held is not None:
                self._version(tracked, tracked.held)
            run.summary.update(
                {records.STATE: outcome.state.value, records.REASON: outcome.reason, **tracked.best}
            )
            run.tags = (*(run.tags or ()), outcome.state.value)
        finally:
            self._ending.put(lambda: self._finish(trial_id, tracked, outcome.state))

    def cut_off(self) -> None:
        """End the runs whose trials have no end."""
        for trial_id in list(self._tracked):
            self.end(trial_id, Outcome(TrialState.PENDING, _CUT_OFF))

    def _version(self, tracked: _Tracked, held: Path) -> None:
        try:
            metadata = checkpoint_metadata(held)
            value = self._group.objective.value(metadata["metrics"])
            is_best = self._group.objective.is_better(value, self._best)
            if is_best:
                self._best = value
            aliases = checkpoint_aliases(
                self._wandb,
                is_best=is_best,
                is_last=self._wandb.log_model == "end",
                is_final=is_best and metadata["state"] == TrialState.COMPLETED,
            )
            if aliases:
                suggestion = tracked.suggestion
                metadata |= {"trial": suggestion.number, "params": dict(suggestion.params)}
                name = f"{self._group.group}-adapter"
                log_model(tracked.log.run, held / "adapter", name, aliases, metadata)
        finally:
            shutil.rmtree(held, ignore_errors=True)

    def _finish(self, trial_id: str, tracked: _Tracked, state: TrialState) -> None:
        if not finish_run(tracked.log.run, 0 if state in _SUCCEEDED else 1):
            self._unfinished = True
        elif state.is_terminal:
            settled = self._group.settled_marker(trial_id)
            settled.parent.mkdir(exist_ok=True)
            settled.touch()

    def _fail(self, error: Exception) -> None:
        self.warn(f"W&B tracking failed: {first_line(error)}.")

    def _say_once(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            self._say(text)


def _name(prefix: str | None, number: int, trial: TrialConfig) -> str:
    mantissa, exponent = f"{trial.training.learning_rate:.1e}".split("e")
    made = f"trial-{number:04d}-r{trial.lora.r}-a{trial.lora.alpha:g}-lr{mantissa}e{int(exponent)}"
    return f"{prefix}-{made}" if prefix else made
