"""The run of a search as a whole: started or continued with the first trial, completed at the end."""

from collections.abc import Callable
from pathlib import Path

from wandb.sdk.wandb_run import Run

from trainable.config import WandbConfig
from trainable.evaluation.catalogue import Catalogue
from trainable.tracking.artifacts import log_again
from trainable.tracking.completion import Completion
from trainable.tracking.local import Waiting, remove_incomplete, run_folders
from trainable.tracking.rows import RunLog
from trainable.tracking.run import Finishing, finish_run, steps_of
from trainable.tracking.server import ServerUnavailableError
from trainable.tracking.summary import JOB_TYPE, SearchSummary, summary_notes, summary_run_id
from trainable.tracking.trials import RunGroup, TrackedTrial
from trainable.tracking.uploads import remove_committed
from trainable.tracking.worker import Warnings


class SearchRun:
    """The run, and what it shows.

    Attributes:
        summary: what the search's trials are reported to.
    """

    def __init__(
        self,
        wandb: WandbConfig,
        group: RunGroup,
        completion: Completion,
        warnings: Warnings,
        start: Callable[..., Run | None],
        tags: list[str],
    ) -> None:
        """Start the run, or continue that of an earlier process.

        Args:
            wandb: the configuration's section, with the mode to start in.
            group: what the search's runs share.
            completion: asks the server what it has.
            warnings: takes what goes wrong.
            start: starts a run.
            tags: of the run, where it is new.
        """
        self._wandb = wandb
        self._group = group
        self._completion = completion
        self._start = start
        self.run_id = summary_run_id(group)
        earlier = run_folders(group.directory, self.run_id)
        # What a person has edited in W&B since stays: a run that is continued is not named again.
        self._run = self._begin(notes=None, **({} if earlier else {"name": group.group, "tags": tags}))
        self.summary: SearchSummary | None = None
        if self._run is None:
            return
        if not earlier:
            self._run.notes = summary_notes(group, self._run.project_url)
        logged: set[int] = set()
        if earlier:
            try:
                logged = steps_of(self._run, group.directory)
                self._log_again(self._run, earlier)
                for folder in earlier:
                    remove_incomplete(folder)
            except ServerUnavailableError as error:
                warnings.could_not("read what the server has of the search's own run", error)
        everything = wandb.model_copy(update={"include": [], "exclude": []})
        log = RunLog(self._run, everything, Catalogue({}, is_complete=False), warnings.could_not)
        self.summary = SearchSummary(log, group, logged)

    def end(self) -> Finishing | None:
        """Write the tables and the report for the last time, and end the run."""
        if self._run is None or self.summary is None:
            return None
        self.summary.write_tables()
        self.summary.write_page()
        return Finishing(self._run)

    def complete(self, finishing: Finishing) -> bool:
        """Return whether W&B has everything of the run that has ended; what it lacks is sent once more."""
        took_all = finishing.wait()
        if not self._completion.is_online:
            return True
        if not self._completion.answers():
            return False
        folders = run_folders(self._group.directory, self.run_id)
        if self._missing(folders) and finishing.has_ended and (run := self._begin(notes=None)) is not None:
            self._log_again(run, folders)
            took_all = finish_run(run) and not run.offline
        return took_all and not self._missing(run_folders(self._group.directory, self.run_id))

    def _begin(self, **names: object) -> Run | None:
        trial = TrackedTrial(self.run_id, self._group.group, {"experiment": self._group.group})
        return self._start(trial, self._wandb, run_id=self.run_id, job_type=JOB_TYPE, **names)

    def _log_again(self, run: Run, folders: list[Path]) -> None:
        for waiting in self._missing(folders) if not run.offline else ():
            log_again(run, waiting)
            waiting.remove()

    def _missing(self, folders: list[Path]) -> list[Waiting]:
        run = self._run
        assert run is not None
        return remove_committed(self._completion.server, run.entity, run.project, folders)
