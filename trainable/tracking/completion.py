"""Whether the server has everything of a run and the best version its alias, and what is done if not.

The server is asked, never the client: which steps a run's history has, which artifacts are committed. What it
lacks is logged again once, from the trial's own result log and from the files that wait in the run's folder.
"""

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.sdk.wandb_run import Run

from trainable.config import WandbConfig
from trainable.records import REASON, STATE, Outcome, TrialState
from trainable.tracking.artifacts import artifact_name, log_again
from trainable.tracking.best_run import TAG, BestRun
from trainable.tracking.local import Waiting, continued_id, run_folders, send_offline, unsent_files
from trainable.tracking.rows import RunLog
from trainable.tracking.run import Finishing, finish_run, resolve_mode
from trainable.tracking.server import Server, ServerUnavailableError
from trainable.tracking.trials import RunGroup, TrackedTrial
from trainable.tracking.uploads import best_value, prune, reconcile, remove_committed
from trainable.tracking.worker import Warnings

RETRY_S = 60.0
"""How long a server that did not answer is not asked again; runs that start meanwhile are kept on disk."""
_PATIENCE_S = (0.5, 2.0)
"""How long a server is given to show what it has just taken, in seconds between looks."""
STATES = frozenset(state.value for state in TrialState)
"""Tags that say how a trial ended."""
OWN_TAGS = STATES | {TAG}
"""Tags that a search moves: a run that is continued starts without them."""
_SUCCEEDED = (TrialState.COMPLETED, TrialState.PRUNED)


@dataclass
class Tracked:
    """A trial's open run, the steps that were logged, and the best record.

    Attributes:
        run_id: the run's, which may differ from the trial's.
        place: entity and project of the run, which W&B does not give after its end.
        is_known: whether it is known what the server has of earlier processes.
        has_all_tags: whether the run's tags are known here; otherwise they are on the server, where a person
            may have edited them, and setting any would replace them all.
    """

    log: RunLog
    trial: TrackedTrial
    run_id: str
    place: tuple[str, str]
    steps: set[int] = field(default_factory=set)
    best: dict[str, Any] = field(default_factory=dict)
    where: dict[str, Any] = field(default_factory=dict)
    held: Path | None = None
    is_known: bool = True
    has_all_tags: bool = True


class Completion:
    """Compares what was logged with what the server has.

    Attributes:
        is_online: whether runs are to be sent while the search runs.
        diverged: numbers of the trials that have diverged.
        best_run: which run has the tag `best`.
    """

    def __init__(
        self,
        wandb: WandbConfig,
        group: RunGroup,
        warnings: Warnings,
        start: Callable[..., Run | None],
    ) -> None:
        """Remember how to start a run again.

        Args:
            wandb: the configuration's section.
            group: what the runs share.
            warnings: takes what goes wrong.
            start: starts a trial's run.
        """
        self._wandb = wandb
        self._group = group
        self._warnings = warnings
        self._start = start
        self.is_online = resolve_mode(wandb) == "online"
        self.server = Server()
        self.diverged: set[int | None] = set(group.diverged)
        self.best_run = BestRun(group.objective, group.earlier)
        self._retry_at = 0.0

    def answers(self) -> bool:
        """Return whether the server answers; after it did not, it is asked again in `RETRY_S`."""
        if time.monotonic() < self._retry_at:
            return False
        try:
            self.server.ping()
        except ServerUnavailableError as error:
            self._retry_at = time.monotonic() + RETRY_S
            text = f"W&B cannot be reached ({error}); runs are kept on disk until it can."
            self._warnings.warn("server", text)
            return False
        return True

    def send_offline(self, trial_id: str) -> bool:
        """Send what was written offline of a run; returns whether the server took it."""
        directory, wandb = self._group.directory, self._wandb
        if not unsent_files(directory, trial_id):
            return True
        try:
            run_id = continued_id(directory, trial_id)
            arrived = self.server.logged_steps(wandb.entity, wandb.project, run_id)
            send_offline(directory, trial_id, arrived)
        except (OSError, subprocess.SubprocessError, ServerUnavailableError) as error:
            self._warnings.could_not("send the runs that were kept on disk", error)
            return False
        return True

    def is_complete(self, tracked: Tracked, outcome: Outcome, finishing: Finishing) -> bool:
        """Return whether W&B has everything of a run that has ended; what it lacks is logged again once."""
        if not self.is_online:
            return True
        if not self.answers():
            return False
        trial_id = tracked.trial.trial_id
        if not self.send_offline(trial_id):
            return False
        steps, waiting = self._lacking(tracked)
        took_all = finishing.took_all
        if (steps or waiting or not took_all) and finishing.has_ended and tracked.is_known:
            took_all = self._repair(tracked, outcome, steps, waiting)
            steps, waiting = self._lacking(tracked)
        return not steps and not waiting and took_all and tracked.is_known

    def _lacking(self, tracked: Tracked) -> tuple[set[int], list[Waiting]]:
        """Return the steps and artifacts of a run that the server does not have."""
        folders = run_folders(self._group.directory, tracked.trial.trial_id)
        for wait_s in (*_PATIENCE_S, None):
            steps = tracked.steps - self.server.logged_steps(*tracked.place, tracked.run_id)
            waiting = remove_committed(self.server, *tracked.place, folders)
            if wait_s is None or not (steps or waiting):
                break
            # What a server has just taken, it may show a moment later.
            time.sleep(wait_s)
        return steps, waiting

    def _repair(
        self, tracked: Tracked, outcome: Outcome, steps: set[int], waiting: Sequence[Waiting]
    ) -> bool:
        """Continue a run once more, with what the server lacks; returns whether the server took it."""
        records = [one for one in self._group.log_of(tracked.trial.trial_id) if one.step in steps]
        run = self._start(tracked.trial, self._wandb, run_id=tracked.run_id, notes=None)
        if run is None:
            return False
        log = RunLog(run, self._wandb, tracked.trial.catalogue, self._warnings.could_not)
        for record in records:
            log.log_record(record.for_tracking())
        for one in waiting:
            log_again(run, one)
        run.summary.update({**tracked.best, **tracked.where, **end_summary(outcome)})
        if not run.offline:
            run.tags = (*(tag for tag in run.tags or () if tag not in STATES), outcome.state.value)
        return finish_run(run, exit_code(outcome)) and not run.offline

    def committed_best(self, place: tuple[str | None, str]) -> float | None:
        """Return the best objective of the versions that the server has; the logs' best if it is not asked.

        A record whose version was lost with a process must not keep that version from being logged again.
        """
        if not self.is_online or not self.answers():
            return self._group.earlier_best
        try:
            versions = self.server.versions(*place, "model", artifact_name(self._group.collection))
        except ServerUnavailableError:
            return self._group.earlier_best
        return best_value(versions, self._group.objective)

    def reconcile(self, place: tuple[str | None, str], live: Sequence[TrackedTrial]) -> None:
        """Move the tag and the alias `best`, and remove what need not be kept here or there."""
        wandb, objective = self._wandb, self._group.objective
        if not (self.is_online and self.answers()):
            return
        best = self.best_run.of_ended([trial.trial_id for trial in live])
        try:
            if best is not None:
                run_id = continued_id(self._group.directory, best)
                self.best_run.move_tag(self.server, place, self._group.group, run_id)
        except ServerUnavailableError as error:
            self._warnings.could_not("give the tag 'best' to the best run", error)
        if not (wandb.log_artifacts and wandb.log_model):
            return
        try:
            name = artifact_name(self._group.collection)
            versions = self.server.versions(*place, "model", name)
            reconcile(versions, objective)
            if wandb.keep_versions is not None:
                numbers = [trial.number for trial in live]
                prune(versions, objective, wandb.keep_versions, live=numbers, diverged=self.diverged)
            for trial in live:
                folders = run_folders(self._group.directory, trial.trial_id)
                remove_committed(self.server, *place, folders)
        except ServerUnavailableError as error:
            self._warnings.could_not("keep the alias 'best' on the best version", error)


def end_summary(outcome: Outcome) -> dict[str, Any]:
    """Return what a run's summary says of its trial's end."""
    return {STATE: outcome.state.value, REASON: outcome.reason}


def exit_code(outcome: Outcome) -> int:
    """Return the exit code that a run ends with: only what succeeded reads "finished" in W&B."""
    return 0 if outcome.state in _SUCCEEDED else 1
