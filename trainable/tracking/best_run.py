"""Which run of a group has the tag `best`: that of the trial with the best objective, once it has ended.

A run that is open sends its whole list of tags whenever one changes, so the tag goes to ended runs only.
"""

from collections.abc import Collection, Mapping, Sequence

from trainable.objective import Objective
from trainable.records import MetricsRecord
from trainable.tracking.server import Server

TAG = "best"


class BestRun:
    """The best objective of each trial of a search, and the run that has the tag."""

    def __init__(self, objective: Objective, earlier: Mapping[str, Sequence[MetricsRecord]]) -> None:
        """Start with the logs of earlier processes, by trial id."""
        self._objective = objective
        self._best: dict[str, float] = {}
        self._tagged: str | None = None
        for trial_id, log in earlier.items():
            for record in log:
                self.record(trial_id, record)

    def record(self, trial_id: str, record: MetricsRecord) -> None:
        """Take note of a trial's record."""
        value = self._objective.value(record)
        if value is not None and self._objective.is_better(value, self._best.get(trial_id)):
            self._best[trial_id] = value

    def of_ended(self, live: Collection[str]) -> str | None:
        """Return the id of the best trial that is not `live`; `None` if there is none."""
        ended = [trial_id for trial_id in self._best.copy() if trial_id not in live]
        return min(ended, key=lambda trial_id: self._objective.cost(self._best[trial_id]), default=None)

    def move_tag(self, server: Server, place: tuple[str, str], group: str, run_id: str) -> None:
        """Give the tag to one run, and take it from every other run of the group.

        Args:
            server: has the runs.
            place: entity and project.
            group: of the runs.
            run_id: of the run that gets it.

        Raises:
            ServerUnavailableError: the server does not take a tag.
        """
        if self._tagged != run_id and server.move_tag(*place, group, TAG, run_id):
            self._tagged = run_id
