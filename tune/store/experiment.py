"""An experiment's folder: the only place that knows what its files are called and where they lie.

    config.yaml             the resolved configuration
    study.journal           the Optuna study, unless `search.storage` names a database
    lock.json               who is working on the experiment
    ray.log                 Ray's own output
    requests/               what was asked of the running search from another terminal
    wandb/                  W&B's files
    best/                   the best adapter, its metrics and its predictions
    TRIAL_ID/results.jsonl  the trial's metrics records, one line each
    TRIAL_ID/predictions.jsonl  the rows that their text metrics rest on, one line each
    TRIAL_ID/checkpoint_*   the trial's checkpoints

A trial's own process and its engine are handed finished paths, never names.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trainable.checkpoint.manifest import read_state
from trainable.errors import CheckpointError, ExperimentError, nearest
from trainable.evaluation import Prediction, decode_predictions, encode_predictions
from trainable.files import MANIFEST
from trainable.objective import Objective
from trainable.records import MetricsRecord
from trainable.suggestion import TrialFiles
from tune.config import Config, StoredConfig
from tune.store.lock import is_locked, locked
from tune.store.requests import Requests
from tune.store.storage import LocalStorage, Storage
from tune.store.study import StudyStore

_CONFIG = "config.yaml"
_STUDY = "study.journal"
_LOCK = "lock.json"
_BEST = "best"
_LOG = "results.jsonl"
METRICS = "metrics.json"
PREDICTIONS = "predictions.jsonl"
TEST_PREDICTIONS = "test_predictions.jsonl"
_ERROR = "error.txt"
_SETTLED = "wandb-settled"
_HELD = ".wandb-held"
_CHECKPOINTS = "checkpoint_*"
_INTERRUPTED = "checkpoint_interrupted"


class TrialStore:
    """One trial's files.

    Attributes:
        trial_id: Ray's id, which names the folder.
        folder: the trial's folder.
    """

    def __init__(self, storage: Storage, trial_id: str) -> None:
        """Refer to a trial's files, which need not exist yet."""
        self._storage = storage
        self.trial_id = trial_id
        self.folder = storage.locate(trial_id)

    @property
    def files(self) -> TrialFiles:
        """The paths that the trial's own process and its engine write to."""
        return TrialFiles(
            error=str(self.folder / _ERROR), interrupted_checkpoint=str(self.folder / _INTERRUPTED)
        )

    def append(self, record: MetricsRecord) -> None:
        """Append a record to the result log, durably.

        Raises:
            OSError: the disk is full or read-only.
        """
        line = json.dumps(record, ensure_ascii=False, allow_nan=False)
        self._storage.append(f"{self.trial_id}/{_LOG}", line.encode())

    def log(self) -> list[MetricsRecord]:
        """Return the result log; a line that a crash truncated is skipped."""
        try:
            lines = self._storage.read(f"{self.trial_id}/{_LOG}").splitlines()
        except FileNotFoundError:
            return []
        records = []
        for line in lines:
            with suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict):
                    records.append(MetricsRecord(record))
        return records

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
        name = f"{self.trial_id}/{PREDICTIONS}"
        if self._storage.exists(name):
            kept = [row for row in self.predictions() if row.step is None or row.step <= step]
            self._storage.write(name, encode_predictions(kept))

    def checkpoints(self) -> list[Path]:
        """Return the trial's checkpoint folders, complete or not; empty ones are left out."""
        found = self._storage.list(f"{self.trial_id}/{_CHECKPOINTS}")
        folders = [self._storage.locate(name) for name in found]
        return [folder for folder in folders if any(folder.iterdir())]

    def newest_checkpoint(self) -> Path | None:
        """Return the checkpoint with the most steps among those whose manifest is there."""
        complete = [folder for folder in self.checkpoints() if (folder / MANIFEST).exists()]
        return max(complete, key=lambda folder: (_step_of(folder), folder.name), default=None)

    def best_checkpoint(self, objective: Objective) -> Path | None:
        """Return the complete checkpoint with the best objective."""
        best: tuple[float, Path] | None = None
        for folder in self.checkpoints():
            try:
                value = objective.value(read_state(folder)["record"])
            except CheckpointError:
                continue
            if value is not None and (best is None or objective.cost(value) < best[0]):
                best = objective.cost(value), folder
        return best[1] if best else None

    @property
    def last_checkpoint_number(self) -> int:
        """The highest number of a checkpoint folder; -1 if there is none."""
        numbers = [name.rpartition("_")[2] for name in self._storage.list(f"{self.trial_id}/{_CHECKPOINTS}")]
        return max((int(number) for number in numbers if number.isdigit()), default=-1)

    def last_error(self) -> str | None:
        """Return the last line of the error that ended an attempt at the trial, if there was one."""
        try:
            text = self._storage.read(f"{self.trial_id}/{_ERROR}").decode("utf-8", "replace")
        except FileNotFoundError:
            return None
        return next((line.strip() for line in reversed(text.split("\n")) if line.strip()), None)


@dataclass(frozen=True)
class ExperimentStore:
    """One experiment's files.

    Attributes:
        folder: the experiment's, absolute.
    """

    folder: Path

    @classmethod
    def find(cls, name_or_path: str, results_dir: Path) -> "ExperimentStore":
        """Return the experiment of this name in `results_dir`, or at this path.

        Raises:
            ExperimentError: there is none; the message lists those that there are.
        """
        for folder in (results_dir / name_or_path, Path(name_or_path).expanduser()):
            if (folder / _CONFIG).is_file():
                return cls(folder.resolve())
        names = sorted(path.parent.name for path in results_dir.glob(f"*/{_CONFIG}"))
        there = f"There: {', '.join(names)}." if names else f"There is none in '{results_dir}' yet."
        raise ExperimentError(
            f"experiment '{name_or_path}' does not exist.{nearest(name_or_path, names)} {there} "
            "Give a name from the results folder (--results_dir) or the path of an experiment."
        )

    @classmethod
    def create(cls, config: Config) -> "ExperimentStore":
        """Create the folder of a new experiment and store its configuration.

        Raises:
            ExperimentError: there is an experiment of this name, or the folder cannot be created.
        """
        name, results_dir = str(config.search.name), config.search.results_dir
        store = cls(results_dir.resolve() / name)
        if store.folder.exists():
            raise ExperimentError(
                f"experiment '{name}' exists already in '{results_dir}'. "
                f"Resume it: loratune resume {name}; or choose another --name."
            )
        try:
            store.folder.mkdir(parents=True)
        except OSError as error:
            raise ExperimentError(
                f"search.results_dir '{results_dir}' cannot be written to: {error.strerror}. "
                "Give another folder with --results_dir."
            ) from None
        store.write_config(StoredConfig(config, {}, ()))
        return store

    @property
    def name(self) -> str:
        """The folder's name; the study and the W&B group keep the name the search was started under."""
        return self.folder.name

    @cached_property
    def _storage(self) -> Storage:
        return LocalStorage(self.folder)

    def read_config(self) -> StoredConfig:
        """Return the stored configuration.

        Raises:
            ConfigError: it is missing or not readable.
        """
        return Config.read(self.folder / _CONFIG)

    def write_config(self, stored: StoredConfig) -> None:
        """Replace the stored configuration."""
        self._storage.write(_CONFIG, stored.config.to_yaml(stored.unknown).encode())

    def create_study(self, config: Config) -> StudyStore:
        """Open the study, creating it if it is not there.

        Raises:
            ExperimentError: it is there with another direction.
        """
        return StudyStore.create(self._study_location(config), str(config.search.name), config.objective)

    def open_study(self, config: Config) -> StudyStore | None:
        """Open the study if it is there; nothing is created.

        Raises:
            ExperimentError: it is there with another direction.
        """
        return StudyStore.open(self._study_location(config), str(config.search.name), config.objective)

    def trial(self, trial_id: str) -> TrialStore:
        """Return a trial's files."""
        return TrialStore(self._storage, trial_id)

    def settled_marker(self, trial_id: str) -> Path:
        """Return the file that exists once W&B has everything of a trial's run."""
        return self.trial(trial_id).folder / _SETTLED

    def logged_trial_ids(self) -> list[str]:
        """Return the ids of all folders with a result log."""
        return [name.partition("/")[0] for name in self._storage.list(f"*/{_LOG}")]

    def checkpoint(self, name: str) -> Path:
        """Return the place of a checkpoint given as `TRIAL_ID/CHECKPOINT`."""
        return self._storage.locate(name)

    def name_of_checkpoint(self, path: Path) -> str:
        """Return a checkpoint's name as `TRIAL_ID/CHECKPOINT`, which survives moving the experiment."""
        return f"{path.parent.name}/{path.name}"

    @property
    def requests(self) -> Requests:
        """What was asked of the search from another terminal and is not carried out yet."""
        return Requests(self._storage)

    @property
    def best(self) -> Path:
        """The folder of the best adapter."""
        return self.folder / _BEST

    @property
    def held(self) -> Path:
        """The folder of checkpoints that wait for their upload to W&B."""
        return self.folder / _HELD

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that works on the experiment inside the `with` block.

        Raises:
            ExperimentError: another process is; the message says which.
        """
        with locked(self.folder / _LOCK, self.name):
            yield

    def is_locked(self) -> bool:
        """Return whether a process is working on the experiment."""
        return is_locked(self.folder / _LOCK)

    def discard(self) -> None:
        """Remove an experiment of which nothing has run, and its parent folder if that is then empty."""
        self._storage.delete("")
        with suppress(OSError):
            self.folder.parent.rmdir()

    def small_files(self, most_bytes: int) -> Iterator[tuple[str, bytes]]:
        """Yield the names and contents of files up to a size; tensors and tables are left out."""
        for folder, _, names in os.walk(self.folder):
            for name in sorted(names):
                path = Path(folder) / name
                if path.suffix in (".safetensors", ".arrow") or not path.is_file():
                    continue
                if path.stat().st_size <= most_bytes:
                    yield path.relative_to(self.folder).as_posix(), path.read_bytes()

    def _study_location(self, config: Config) -> Path | str:
        return config.search.storage or self._storage.locate(_STUDY)


def _step_of(checkpoint: Path) -> int:
    try:
        return int(json.loads((checkpoint / "state.json").read_bytes())["step"])
    except (OSError, ValueError, KeyError):
        return -1
