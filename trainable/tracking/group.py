"""The runs of a search's trials, in one group, tracked by threads of their own.

One thread starts runs and logs to them, in order; a second ends them, checks what the server has, and moves
aliases, which can take W&B a while. A run is complete when the server's history has every step that was
logged and has committed every artifact; in a search that is configured to be offline, when the local file
has them. What a server did not take is logged again once, from the trial's own result log, as soon as it
answers. Errors become one warning of each kind; the end of the search lists the runs that are not complete.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wandb.sdk.wandb_run import Run

from trainable.config import WandbConfig
from trainable.extension import load_object
from trainable.records import MetricsRecord, Outcome, TrialState
from trainable.tracking.artifacts import (
    checkpoint_aliases,
    data_manifest,
    log_again,
    log_code,
    log_model,
    use_data,
)
from trainable.tracking.completion import OWN_TAGS, Completion, Tracked, end_summary, exit_code
from trainable.tracking.local import (
    continued_id,
    held_version,
    is_unsent,
    remove_incomplete,
    run_folders,
    sync_command_for,
)
from trainable.tracking.rows import RunLog, unknown_metrics
from trainable.tracking.run import (
    Finishing,
    clean_tags,
    leave_service,
    silence_wandb,
    start_run,
    steps_of,
)
from trainable.tracking.search_run import SearchRun
from trainable.tracking.server import ServerUnavailableError
from trainable.tracking.summary import JOB_TYPE as SEARCH
from trainable.tracking.summary import SearchSummary, summary_run_id
from trainable.tracking.trials import RunGroup, TrackedTrial
from trainable.tracking.uploads import remove_committed
from trainable.tracking.worker import Warnings, Worker

RECONCILE_S = 30.0
"""The shortest time between two looks at what the server has committed, while the search runs."""


class Runs:
    """The group's runs. Only its own threads call what is put into it.

    Attributes:
        stopped: ids of the trials whose Stop button was pressed in W&B.
    """

    def __init__(
        self, wandb: WandbConfig, group: RunGroup, say: Callable[[str], None], held: Path | None = None
    ) -> None:
        """Start the threads.

        Args:
            wandb: the configuration's section.
            group: what the runs share.
            say: takes a warning.
            held: the folder of checkpoints that wait to be logged, for those that an earlier process left.
        """
        silence_wandb()
        self._wandb = wandb
        self._group = group
        self._say = say
        self._held = held
        self._warnings = Warnings(say)
        self._completion = Completion(wandb, group, self._warnings, self._start)
        self._tracked: dict[str, Tracked] = {}
        self._incomplete: dict[str, str] = {}
        self._unsettled: list[tuple[Tracked, Outcome, Finishing]] = []
        self._best: float | None = None
        self._is_best_known = not group.earlier
        self._first = not group.earlier
        self._manifest: dict[str, Any] | None = None
        self._place: tuple[str | None, str] | None = None
        self._search: SearchRun | None = None
        self._summary: SearchSummary | None = None
        self._reconcile_at = 0.0
        self._logging = Worker("wandb", self._warnings.failed)
        self._ending = Worker("wandb-end", self._warnings.failed)
        self.stopped: set[str] = set()

    def put(self, work: Callable[..., None], *values: Any) -> None:
        """Do `work(self, *values)` later."""
        self._logging.put(lambda: work(self, *values))

    def close(self, timeout_s: float) -> str | None:
        """End what is open, within `timeout_s`.

        Returns:
            What W&B does not have, and the command that sends it; `None` if it has everything.
        """
        begin = time.monotonic()
        self.put(Runs.cut_off)
        in_time = self._logging.close(begin + timeout_s)
        self._ending.put(self._reconcile)
        in_time = self._ending.close(begin + timeout_s) and in_time
        if self._incomplete or not in_time:
            leave_service()
        self._warnings.mute()
        return self._missing(time.monotonic() - begin)

    def _missing(self, took_s: float) -> str | None:
        """Return what W&B does not have after the end, which took `took_s` seconds."""
        folders = [
            folder
            for trial_id in self._incomplete
            for folder in run_folders(self._group.directory.absolute(), trial_id)
            if not any(folder.glob("*.synced"))
        ]
        if not self._incomplete:
            return None
        names = list(self._incomplete.values())
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        text = f"W&B does not have everything of {len(names)} run(s) after {took_s:.1f} s: {shown}."
        if self._group.resume_command:
            # Sends what is missing and nothing else, from the trials' own result logs.
            text = f"{text} Complete them later: {self._group.resume_command}."
        return f"{text} Send what is on this disk: {sync_command_for(folders)}" if folders else text

    def warn(self, kind: str, text: str) -> None:
        """Report the first problem of each kind."""
        self._warnings.warn(kind, text)

    def begin(self, trial_id: str, describe: Callable[[], TrackedTrial]) -> None:
        """Start a trial's run with all that is known of the trial before it trains, or continue it.

        Args:
            trial_id: the trial's.
            describe: is called here, because it loads metric families, which takes a while.
        """
        if trial_id in self._tracked:
            return
        trial, group = describe(), self._group
        self.summarize()
        self._incomplete[trial_id] = trial.name
        is_continued = trial_id in group.earlier and bool(run_folders(group.directory, trial_id))
        wandb = self._mode_for(trial_id)
        # What a person has edited in W&B since stays: a run that is continued is not named again.
        names = {"notes": None} if is_continued else {"name": trial.name, "tags": self._tags(trial)}
        run = self._start(trial, wandb, run_id=continued_id(group.directory, trial_id), **names)
        if run is None:
            return
        log = RunLog(run, self._wandb, trial.catalogue, self._warnings.could_not)
        tracked = Tracked(log, trial, run.id, (run.entity or "", run.project))
        self._tracked[trial_id] = tracked
        if self._summary is not None:
            self._summary.begin(trial)
        self._place = tracked.place
        if is_continued:
            self._continue(tracked)
        if trial_id in group.earlier:
            self._complete(tracked, group.earlier[trial_id])
        if self._first and (warning := unknown_metrics(self._wandb, trial.catalogue)):
            self._say(warning)
        is_first, self._first = self._first, False
        self._log_inputs(tracked, is_first)
        if trial_id in group.earlier:
            self._log_waiting(run, trial_id)
            for held in sorted(self._held.glob(f"{trial_id}-*")) if self._held else ():
                self.checkpoint(trial_id, held)
        if self._wandb.on_run:
            load_object(self._wandb.on_run, "wandb.on_run")(
                url=None if run.offline else run.url, trial_id=trial_id, number=trial.number
            )

    def check(self) -> None:
        """Look at what the server has, although no run is to be completed."""
        self._ending.put(self._reconcile)

    def summarize(self) -> None:
        """Start the search's own run, or continue it; its tables are written at the end."""
        group = self._group
        if not group.summarize or self._search is not None:
            return
        run_id = summary_run_id(group)
        self._incomplete[run_id] = f"{group.group} ({SEARCH})"
        wandb, tags = self._mode_for(run_id), clean_tags([*self._wandb.tags, group.group, *group.tags])
        self._search = SearchRun(wandb, group, self._completion, self._warnings, self._start, tags)
        self._summary = self._search.summary

    def _mode_for(self, run_id: str) -> WandbConfig:
        """Return the section to start a run with: online if the server answers and takes what waits here."""
        completion = self._completion
        if not completion.is_online:
            return self._wandb
        is_online = completion.answers() and completion.send_offline(run_id)
        return self._wandb.model_copy(update={"mode": "online" if is_online else "offline"})

    def _start(self, trial: TrackedTrial, wandb: WandbConfig, *, run_id: str, **names: Any) -> Run | None:
        return start_run(
            wandb,
            self._group.directory,
            lambda text: self._warnings.warn("server", f"{text}."),
            # Without this, W&B's Stop button would interrupt the whole search.
            stop=lambda: self.stopped.add(trial.trial_id),
            id=run_id,
            # A trial trains elsewhere, and its records say how busy its device is.
            watch_machine=names.get("job_type") == SEARCH,
            group=self._group.group,
            config=dict(trial.config),
            **({"job_type": "trial"} | names),
        )

    def _continue(self, tracked: Tracked) -> None:
        """Remove the state that the run ended with, and name the run if the server does not have it."""
        run, trial = tracked.log.run, tracked.trial
        if run.resumed:
            run.tags = tuple(tag for tag in run.tags or () if tag not in OWN_TAGS)
        elif not run.offline:
            run.name, run.notes, run.tags = trial.name, self._wandb.notes, tuple(self._tags(trial))
        elif is_unsent(self._group.directory, trial.trial_id):
            run.tags = tuple(self._tags(trial))
        else:
            tracked.has_all_tags = False

    def _tags(self, trial: TrackedTrial) -> list[str]:
        return clean_tags([*self._wandb.tags, self._group.group, *self._group.tags, *trial.tags])

    def _complete(self, tracked: Tracked, log: Sequence[MetricsRecord]) -> None:
        """Log what an interrupted process had in its log and W&B does not have."""
        try:
            arrived = steps_of(tracked.log.run, self._group.directory)
        except ServerUnavailableError as error:
            # Rows must not be logged twice; the next resume asks again.
            self._warnings.could_not("read the history of a run that is continued", error)
            arrived, tracked.is_known = {record.step for record in log}, False
        for record in log:
            self._remember(tracked, record)
            if record.step not in arrived:
                tracked.log.log_record(record.for_tracking())

    def _log_inputs(self, tracked: Tracked, is_first: bool) -> None:
        if not self._wandb.log_artifacts:
            return
        run, data = tracked.log.run, tracked.trial.data
        if data is not None and self._group.data_hash is not None:
            self._manifest = self._manifest or data_manifest(data, self._group.data_hash)
            use_data(run, self._manifest, f"data-{self._wandb.project}")
        if self._wandb.save_code and is_first:
            log_code(run, Path.cwd(), f"source-{self._wandb.project}")

    def _log_waiting(self, run: Run, run_id: str) -> None:
        """Log the artifacts that an earlier process did not live to see committed."""
        if run.offline:
            return
        earlier = [path for path in run_folders(self._group.directory, run_id) if path.name not in run.dir]
        for waiting in remove_committed(self._completion.server, run.entity, run.project, earlier):
            log_again(run, waiting)
            waiting.remove()
        for folder in earlier:
            remove_incomplete(folder)

    def log(self, trial_id: str, record: MetricsRecord, where: Mapping[str, Any]) -> None:
        """Log a record, unless an earlier attempt of the trial has logged it.

        Args:
            trial_id: whose.
            record: as the trial reported it.
            where: the device and the node that the trial is on, for the run's summary.
        """
        tracked = self._tracked.get(trial_id)
        if tracked is None or record.step in tracked.steps:
            return
        improved = self._remember(tracked, record)
        tracked.log.log_record(record)
        if self._summary is not None:
            self._summary.record(trial_id, record)
        known = tracked.where
        moved = {key: one for key, one in where.items() if one is not None and known.get(key) != one}
        news = {**(tracked.best if improved else {}), **moved}
        tracked.where.update(where)
        if news:
            tracked.log.run.summary.update(news)
        if time.monotonic() >= self._reconcile_at:
            self._reconcile_at = time.monotonic() + RECONCILE_S
            self._ending.put(self._reconcile)

    def _remember(self, tracked: Tracked, record: MetricsRecord) -> bool:
        """Take note of a record; returns whether it is the trial's best so far."""
        tracked.steps.add(record.step)
        self._completion.best_run.record(tracked.trial.trial_id, record)
        objective = self._group.objective
        best_key = f"best/{objective.metric}"
        value = objective.value(record)
        improved = objective.is_better(value, tracked.best.get(best_key))
        if improved:
            tracked.best = {best_key: value, "best/step": record.step}
        return improved

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
        """End a run with its trial's outcome."""
        tracked = self._tracked.pop(trial_id, None)
        if tracked is None:
            return
        run = tracked.log.run
        if outcome.state is TrialState.DIVERGED:
            self._completion.diverged.add(tracked.trial.number)
        try:
            if tracked.held is not None:
                self._version(tracked, tracked.held)
            run.summary.update({**tracked.best, **end_summary(outcome)})
            if tracked.has_all_tags:
                run.tags = (*(run.tags or ()), outcome.state.value)
            if self._summary is not None:
                self._summary.end(trial_id, outcome)
        finally:
            # All runs end at once; one that W&B is slow with must not keep the others' files open.
            finishing = Finishing(run, exit_code(outcome))
            self._ending.put(lambda: self._finish(tracked, outcome, finishing))

    def cut_off(self) -> None:
        """End the runs whose trials have no end."""
        for trial_id in list(self._tracked):
            reason = "the search ended before the trial did; it can be resumed"
            self.end(trial_id, Outcome(TrialState.PENDING, reason))
        if self._search is not None and (finishing := self._search.end()) is not None:
            self._ending.put(lambda: self._complete_search(finishing))

    def _complete_search(self, finishing: Finishing) -> None:
        assert self._search is not None
        if self._search.complete(finishing):
            self._incomplete.pop(self._search.run_id, None)

    def _version(self, tracked: Tracked, held: Path) -> None:
        try:
            files, metadata = held_version(held)
            value = self._group.objective.value(metadata["metrics"])
            if not self._is_best_known:
                self._best, self._is_best_known = self._completion.committed_best(tracked.place), True
            is_best = self._group.objective.is_better(value, self._best)
            if is_best:
                self._best = value
            aliases = checkpoint_aliases(
                self._wandb,
                is_best=is_best,
                is_last=self._wandb.log_model == "end",
                is_final=is_best and metadata.get("state") == TrialState.COMPLETED,
            )
            if aliases:
                metadata |= {"trial": tracked.trial.number, "params": dict(tracked.trial.params)}
                # With a server, aliases follow what is committed; a file for `wandb sync` must name them.
                given = ["latest"] if self._completion.is_online else aliases
                collection = self._group.collection
                log_model(tracked.log.run, files, collection, given, metadata, immutable=True)
        finally:
            shutil.rmtree(held, ignore_errors=True)

    def _finish(self, tracked: Tracked, outcome: Outcome, finishing: Finishing) -> None:
        finishing.wait()
        if not self._settle(tracked, outcome, finishing):
            self._unsettled.append((tracked, outcome, finishing))

    def _settle(self, tracked: Tracked, outcome: Outcome, finishing: Finishing) -> bool:
        """Return whether W&B has everything of a run that has ended, and note it beside the trial's log."""
        if not self._completion.is_complete(tracked, outcome, finishing):
            return False
        self._incomplete.pop(tracked.trial.trial_id, None)
        if outcome.state.is_terminal:
            settled = self._group.settled_marker(tracked.trial.trial_id)
            settled.parent.mkdir(parents=True, exist_ok=True)
            settled.touch()
        return True

    def _reconcile(self) -> None:
        """Complete the runs that ended in an outage, and move `best` to the best committed version."""
        if self._unsettled and self._completion.answers():
            self._unsettled = [one for one in self._unsettled if not self._settle(*one)]
        live = [tracked.trial for tracked in list(self._tracked.values())]
        self._completion.reconcile(self._place or (self._wandb.entity, self._wandb.project), live)
