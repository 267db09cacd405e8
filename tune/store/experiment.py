"""An experiment's files: the only module that knows what they are called and where they lie.

    config.yaml             the resolved configuration
    study.journal           the Optuna study, unless `search.storage` names a database
    lock.json               who is working on the experiment; in a store `lock/`, the claims to it
    ray.log                 Ray's own output
    requests/               what was asked of the running search from another terminal
    wandb/                  W&B's files
    best/                   the best adapter, its metrics and its predictions
    TRIAL_ID/results.jsonl  the trial's metrics records, one line each
    TRIAL_ID/predictions.jsonl  the rows that their text metrics rest on, one line each
    TRIAL_ID/checkpoint_*   the trial's checkpoints

A trial's own process and its engine are handed finished places, never names. Of an experiment in a store,
Ray's output, W&B's files and copies of what was fetched lie in loratune's cache on the driver's machine.
"""

import contextlib
import json
import shlex
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainable.errors import ConfigError, ExperimentError, StorageError, nearest
from trainable.files import MANIFEST, loratune_cache, replaced_folder
from trainable.places import Place, absolute, inside, name_of, parent_of, place_of, shown
from tune.config import Config, StoredConfig
from tune.store.journal import JournalPlace
from tune.store.lock import is_locked, locked
from tune.store.requests import Requests
from tune.store.storage import LocalStorage, Storage
from tune.store.study import Location, StudyStore
from tune.store.trial import LOG, PREDICTIONS, TrialStore

if TYPE_CHECKING:
    from tune.store.lease import Lease

__all__ = ["METRICS", "PREDICTIONS", "TEST_PREDICTIONS", "ExperimentStore", "TrialStore"]

_CONFIG = "config.yaml"
_STUDY = "study.journal"
_LOCK = "lock.json"
_LEASES = "lock"
_FETCHED = "fetched"
_FIRST_CONTACT_S = 15.0
_BEST = "best"
METRICS = "metrics.json"
TEST_PREDICTIONS = "test_predictions.jsonl"
_SETTLED = "wandb-settled"
_HELD = ".wandb-held"


@dataclass(frozen=True)
class ExperimentStore:
    """One experiment's files.

    Attributes:
        place: the experiment's folder, absolute, or its URI.
    """

    place: Place

    @classmethod
    def find(cls, name_or_place: str, results_dir: Place) -> "ExperimentStore":
        """Return the experiment of this name in `results_dir`, or at this path or URI.

        Raises:
            ConfigError: a URI cannot be used.
            ExperimentError: there is none; the message lists those that there are.
        """
        own = place_of(name_or_place)
        places: list[Place] = [own]
        if isinstance(own, Path):
            places = [inside(results_dir, name_or_place.rstrip("/")), own.expanduser()]
        for place in places:
            store = cls(absolute(place))
            with store._first_contact():
                if store._storage.exists(_CONFIG):
                    return store
        where = results_dir if isinstance(own, Path) else parent_of(own)
        names = cls.names_in(where)
        there = f"There: {', '.join(names)}." if names else f"There is none in '{where}' yet."
        raise ExperimentError(
            f"experiment '{name_or_place}' does not exist.{nearest(name_or_place, names)} {there} "
            "Give a name from the results folder (--results_dir), or the path or URI of an experiment."
        )

    @classmethod
    def names_in(cls, results_dir: Place) -> list[str]:
        """Return the names of the experiments in a results folder, sorted."""
        found = cls(absolute(results_dir))._storage.names(f"*/{_CONFIG}")
        return [name.partition("/")[0] for name in found]

    @classmethod
    def create(cls, config: Config) -> "ExperimentStore":
        """Create the folder of a new experiment and store its configuration.

        Raises:
            ExperimentError: there is an experiment of this name, or the folder cannot be created.
        """
        name, results_dir = str(config.search.name), config.search.results_dir
        store = cls(absolute(inside(results_dir, name)))
        taken = ExperimentError(
            f"experiment '{name}' exists already in '{shown(parent_of(store.place))}'. "
            f"Resume it: loratune resume {shlex.quote(shown(store.place))}; or choose another --name."
        )
        if isinstance(store.place, Path):
            try:
                store.place.mkdir(parents=True)
            except FileExistsError as error:
                if not store.place.exists():
                    raise _not_writable(results_dir, error) from None
                raise taken from None
            except OSError as error:
                raise _not_writable(results_dir, error) from None
            store.write_config(StoredConfig(config, {}, ()))
            return store
        with store._first_contact(), store.locked():
            if store._storage.exists(_CONFIG):
                raise taken
            store.write_config(StoredConfig(config, {}, ()))
        return store

    @property
    def name(self) -> str:
        """The folder's name; the study and the W&B group keep the name the search was started under."""
        return name_of(self.place)

    def typed(self, results_dir: Place) -> str:
        """Return what a person types to name the experiment: its name, or its place outside `results_dir`."""
        is_there = parent_of(self.place) == absolute(results_dir)
        return shlex.quote(self.name if is_there else shown(self.place))

    @cached_property
    def folder(self) -> Path:
        """The local folder of what stays on the driver's machine: Ray's output and W&B's files.

        It is the experiment's own, if that is local.
        """
        if isinstance(self.place, Path):
            return self.place
        return loratune_cache() / "experiments" / sha256(self.place.encode()).hexdigest()[:12] / self.name

    @cached_property
    def _storage(self) -> Storage:
        if isinstance(self.place, Path):
            return LocalStorage(self.place)
        # pyarrow, which takes a moment to import, is needed for stores alone.
        from tune.store.object_storage import ObjectStorage

        return ObjectStorage(self.place)

    @contextlib.contextmanager
    def _first_contact(self) -> Iterator[None]:
        """Ask a store for the experiment, for a short time only; then do what is in the `with` block.

        Raises:
            ExperimentError: the store does not answer, or refuses.
        """
        if isinstance(self.place, Path):
            yield
            return
        from trainable.stores import open_store

        try:
            files, path = open_store(self.place, patience_s=_FIRST_CONTACT_S)
            files.get_file_info(path)
            yield
        except StorageError as error:
            raise ExperimentError(
                f"{str(error).rstrip('.')}. Check the address, the bucket's name, the keys in the "
                "environment, and that the store runs."
            ) from None

    def read_config(self) -> StoredConfig:
        """Return the stored configuration.

        Raises:
            ConfigError: it is missing or not readable.
        """
        where = str(inside(self.place, _CONFIG))
        try:
            text = self._storage.read(_CONFIG).decode("utf-8")
        except FileNotFoundError:
            raise ConfigError(f"configuration file '{where}' does not exist.") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"configuration file '{where}' cannot be read: {error}.") from None
        return Config.parse(text, where, parent_of(self.place))

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
        """Return the file that exists once W&B, or its files on this machine, have all of a trial's run."""
        return self.folder / trial_id / _SETTLED

    def logged_trial_ids(self) -> list[str]:
        """Return the ids of all folders with a result log."""
        return [name.partition("/")[0] for name in self._storage.names(f"*/{LOG}")]

    def checkpoint(self, name: str) -> Place:
        """Return the place of a checkpoint given as `TRIAL_ID/CHECKPOINT`."""
        return self._storage.place(name)

    def name_of_checkpoint(self, place: Place) -> str:
        """Return a checkpoint's name as `TRIAL_ID/CHECKPOINT`, which survives moving the experiment."""
        return f"{name_of(parent_of(place))}/{name_of(place)}"

    def read_checkpoint(self, place: Place, *, deep: bool = True) -> dict[str, Any]:
        """Return the content of a complete checkpoint's `state.json`; see `TrialStore.read_checkpoint`."""
        return self.trial(name_of(parent_of(place))).read_checkpoint(place, deep=deep)

    def has_manifest(self, place: Place) -> bool:
        """Return whether a checkpoint was finished; resuming removes one that was not."""
        return self._storage.exists(f"{self.name_of_checkpoint(place)}/{MANIFEST}")

    def checkpoint_size(self, place: Place) -> int:
        """Return the bytes of a checkpoint's files."""
        return sum(self._storage.sizes(self.name_of_checkpoint(place)).values())

    def delete_checkpoint(self, place: Place) -> None:
        """Delete a checkpoint's folder."""
        self._storage.delete(self.name_of_checkpoint(place))

    @property
    def requests(self) -> Requests:
        """What was asked of the search from another terminal and is not carried out yet."""
        return Requests(self._storage)

    @property
    def best(self) -> Place:
        """The folder of the best adapter."""
        return self._storage.place(_BEST)

    def read_best(self, name: str) -> bytes:
        """Return the content of a file of `best/`.

        Raises:
            FileNotFoundError: there is no best adapter yet, or it has no such file.
        """
        return self._storage.read(f"{_BEST}/{name}")

    def best_metrics(self) -> dict[str, Any]:
        """Return the content of `best/metrics.json`; empty where it is missing or corrupt."""
        try:
            content = json.loads(self.read_best(METRICS))
        except (FileNotFoundError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def fetch(self, place: Place) -> Path:
        """Return a local folder with the files of a folder of the experiment: itself, or a copy that is kept.

        Raises:
            OSError: the store cannot be read, or the disk is full.
        """
        if isinstance(place, Path):
            return place
        from trainable.stores import download, open_store

        kept = self.folder / _FETCHED / sha256(place.encode()).hexdigest()[:12] / name_of(place)
        with replaced_folder(kept) as fresh:
            download(*open_store(place), fresh)
        return kept

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
        if isinstance(self.place, Path):
            with locked(self.place / _LOCK, self.name):
                yield
            return
        lease = self._lease()
        with lease.held():
            self._storage.check_owner = lease.check  # type: ignore[attr-defined]
            try:
                yield
            finally:
                self._storage.check_owner = _nobody_asks  # type: ignore[attr-defined]

    def is_locked(self) -> bool:
        """Return whether a process is working on the experiment."""
        if isinstance(self.place, Path):
            return is_locked(self.place / _LOCK)
        return self._lease().is_held()

    def _lease(self) -> "Lease":
        from tune.store.lease import Lease

        return Lease(str(self._storage.place(_LEASES)), self.name)

    def discard(self) -> None:
        """Remove an experiment of which nothing has run, and its parent folder if that is then empty."""
        if self.is_locked():
            # Another process took it in the meantime.
            return
        self._storage.delete("")
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):
            self.folder.parent.rmdir()

    def small_files(self, most_bytes: int) -> Iterator[tuple[str, bytes]]:
        """Yield the names and contents of files up to a size; tensors and tables are left out.

        What lies on this machine beside an experiment in a store is among them.
        """
        here = LocalStorage(self.folder)
        for storage in (self._storage,) if self.folder == self.place else (self._storage, here):
            for name, size in sorted(storage.sizes("").items()):
                if size <= most_bytes and not name.endswith((".safetensors", ".arrow")):
                    with suppress(FileNotFoundError):
                        yield name, storage.read(name)

    def _study_location(self, config: Config) -> Location:
        if config.search.storage:
            return config.search.storage
        if isinstance(self.place, Path):
            return self.place / _STUDY
        return JournalPlace(self._storage, _STUDY)


def _not_writable(results_dir: Place, error: OSError) -> ExperimentError:
    return ExperimentError(
        f"search.results_dir '{results_dir}' cannot be written to: {error.strerror}. "
        "Give another folder with --results_dir."
    )


def _nobody_asks() -> None:
    """Stand for the owner's check while nothing is locked."""
