"""One trial's files in an experiment: its result log, its predictions, its checkpoints, its last error."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainable.checkpoint.manifest import STATE, parse_state, read_state
from trainable.errors import CheckpointError
from trainable.evaluation import Prediction, decode_predictions, encode_predictions
from trainable.files import MANIFEST, check_sizes
from trainable.objective import Objective
from trainable.places import Place, name_of
from trainable.records import MetricsRecord
from trainable.suggestion import TrialFiles
from tune.store.storage import Storage

LOG = "results.jsonl"
PREDICTIONS = "predictions.jsonl"
_ERROR = "error.txt"
_CHECKPOINTS = "checkpoint_*"
_INTERRUPTED = "checkpoint_interrupted"


class TrialStore:
    """One trial's files.

    Attributes:
        trial_id: Ray's id, which names the folder.
    """

    def __init__(self, storage: Storage, trial_id: str) -> None:
        """Refer to a trial's files, which need not exist yet."""
        self._storage = storage
        self.trial_id = trial_id

    @property
    def files(self) -> TrialFiles:
        """The places that the trial's own process and its engine write to."""
        return TrialFiles(
            error=str(self._storage.place(f"{self.trial_id}/{_ERROR}")),
            interrupted_checkpoint=str(self._storage.place(f"{self.trial_id}/{_INTERRUPTED}")),
        )

    def append(self, record: MetricsRecord) -> None:
        """Append a record to the result log, durably.

        Raises:
            OSError: the disk is full or read-only.
        """
        line = json.dumps(record, ensure_ascii=False, allow_nan=False)
        self._storage.append(f"{self.trial_id}/{LOG}", line.encode())

    def log(self) -> list[MetricsRecord]:
        """Return the result log; a truncated or corrupt line is skipped."""
        try:
            lines = self._storage.read(f"{self.trial_id}/{LOG}").splitlines()
        except FileNotFoundError:
            return []
        return [record for line in lines if (record := MetricsRecord.parse(line)) is not None]

    def append_predictions(self, rows: Sequence[Prediction]) -> None:
        """Append the rows that a record's text metrics rest on, durably.

        Raises:
            OSError: the disk is full or read-only.
        """
        self._storage.append(f"{self.trial_id}/{PREDICTIONS}", encode_predictions(rows).rstrip(b"\n"))

    def predictions(self) -> list[Prediction]:
        """Return the rows of all evaluations that generated texts."""
        try:
            return decode_predictions(self._storage.read(f"{self.trial_id}/{PREDICTIONS}"))
        except FileNotFoundError:
            return []

    def drop_predictions_after(self, step: int) -> None:
        """Remove the rows of an evaluation that a crash left without its record, and a truncated line."""
        name, kept = f"{self.trial_id}/{PREDICTIONS}", 0
        try:
            content = self._storage.read(name)
        except FileNotFoundError:
            return
        for line in content.splitlines(keepends=True):
            rows = decode_predictions(line) if line.endswith(b"\n") else []
            if not rows or (rows[0].step is not None and rows[0].step > step):
                break
            kept += len(line)
        if kept < len(content):
            self._storage.cut(name, kept)

    def checkpoints(self) -> list[Place]:
        """Return the trial's checkpoint folders, complete or not; empty ones are left out."""
        names = self._storage.names(f"{self.trial_id}/{_CHECKPOINTS}")
        return [self._storage.place(name) for name in names if self._storage.names(f"{name}/*")]

    def newest_checkpoint(self) -> Place | None:
        """Return the checkpoint with the most steps among those whose manifest is there."""
        names = self._storage.names(f"{self.trial_id}/{_CHECKPOINTS}/{MANIFEST}")
        folders = [name.rpartition("/")[0] for name in names]
        newest = max(folders, key=lambda name: (self._step_of(name), name), default=None)
        return self._storage.place(newest) if newest is not None else None

    def best_checkpoint(self, objective: Objective) -> Place | None:
        """Return the complete checkpoint with the best objective."""
        scored: list[tuple[float, Place]] = []
        for place in self.checkpoints():
            with suppress(CheckpointError):
                value = objective.value(self.read_checkpoint(place, deep=False)["record"])
                if value is not None:
                    scored.append((objective.cost(value), place))
        for _, place in sorted(scored, key=lambda one: one[0]):
            with suppress(CheckpointError):
                self.read_checkpoint(place)
                return place
        return None

    def read_checkpoint(self, place: Place, *, deep: bool = True) -> dict[str, Any]:
        """Return the content of a complete checkpoint's `state.json`.

        Args:
            place: the checkpoint's folder.
            deep: hash every file, for which a store's are copied here; else compare sizes only.

        Raises:
            CheckpointError: it is corrupt, or of a newer format.
        """
        if isinstance(place, Path):
            return read_state(place, deep=deep)
        name = f"{self.trial_id}/{name_of(place)}"
        if deep:
            # pyarrow, which takes a moment to import, is needed for stores alone.
            from trainable.stores import local_copy

            with local_copy(place) as folder:
                return read_state(folder, label=name)
        try:
            manifest, state = (self._storage.read(f"{name}/{file}") for file in (MANIFEST, STATE))
        except FileNotFoundError as error:
            raise CheckpointError(f"checkpoint '{name}': {error}. Use an earlier checkpoint.") from None
        return parse_state(state, check_sizes(manifest, self._storage.sizes(name)), name)

    @property
    def last_checkpoint_number(self) -> int:
        """The highest number of a checkpoint folder; -1 if there is none."""
        numbers = [name.rpartition("_")[2] for name in self._storage.names(f"{self.trial_id}/{_CHECKPOINTS}")]
        return max((int(number) for number in numbers if number.isdigit()), default=-1)

    def last_error(self) -> str | None:
        """Return the last line of the error that ended an attempt at the trial, if there was one."""
        try:
            text = self._storage.read(f"{self.trial_id}/{_ERROR}").decode("utf-8", "replace")
        except FileNotFoundError:
            return None
        return next((line.strip() for line in reversed(text.split("\n")) if line.strip()), None)

    def _step_of(self, checkpoint: str) -> int:
        try:
            return int(json.loads(self._storage.read(f"{checkpoint}/{STATE}"))["step"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return -1
