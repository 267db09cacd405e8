"""The Optuna study of an experiment: opened, read and written here and nowhere else.

The study is one of an experiment's two sources of truth (the other is each trial's result log). Its trials
carry user attributes with everything a person or a resumed search needs; `StudyTrial` reads them with types.
A trial is created in one atomic write, with its parameters. Suggestions are drawn elsewhere, from a copy
(`tune.search.sampling_view`). A reader never creates a study: opening one that does not exist gives `None`.
"""

import contextlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
import sqlalchemy.exc
from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.trial import FrozenTrial, create_trial

from trainable.errors import ConfigError, ExperimentError
from trainable.objective import Objective
from trainable.places import Place, shown
from trainable.records import Outcome, TrialState
from tune.store import study_trial as keys
from tune.store.journal import JournalPlace, ObjectJournal
from tune.store.study_trial import StudyTrial

_VIOLATED = {TrialState.OOM: "fits the device", TrialState.DIVERGED: "trains", TrialState.FAILED: "trains"}
"""The constraint that a configuration violates if it is to blame for such an end."""
_OPTUNA_STATES = {
    TrialState.COMPLETED: optuna.trial.TrialState.COMPLETE,
    TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
}

_NO_SAMPLER = RandomSampler()
"""Nothing is drawn in the stored study; Optuna's default would prepare a model for every report."""


Location = Path | JournalPlace | str


class StudyStore:
    """A study in its storage. Pickling it keeps the place, not the connection."""

    def __init__(self, location: Location, name: str, objective: Objective) -> None:
        """Refer to a study; `create` and `open` are the ways in.

        Args:
            location: a journal file's path or its place in an object store, or a database's URL, in which
                `$VARIABLE` stands for an environment variable.
            name: the study's.
            objective: what it optimizes.
        """
        self._location = location
        self._name = name
        self._objective = objective
        self._study: optuna.Study | None = None

    @classmethod
    def create(cls, location: Location, name: str, objective: Objective) -> "StudyStore":
        """Open the study, creating it if it is not there.

        Raises:
            ExperimentError: it is there with another direction.
            ConfigError: the database cannot be used.
        """
        store = cls(location, name, objective)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            store._study = optuna.create_study(
                storage=_connect(location),
                study_name=name,
                load_if_exists=True,
                direction=objective.optuna_direction,
                sampler=_NO_SAMPLER,
            )
        store._check_direction()
        return store

    @classmethod
    def open(cls, location: Location, name: str, objective: Objective) -> "StudyStore | None":
        """Open the study if it is there; nothing is created.

        Raises:
            ExperimentError: it is there with another direction.
            ConfigError: the database cannot be used.
        """
        if not _is_there(location, name):
            return None
        store = cls(location, name, objective)
        try:
            store._study = optuna.load_study(storage=_connect(location), study_name=name, sampler=_NO_SAMPLER)
        except KeyError:
            return None
        store._check_direction()
        return store

    @property
    def study(self) -> optuna.Study:
        """Optuna's own object, for samplers and plots."""
        if self._study is None:
            self._study = optuna.load_study(
                storage=_connect(self._location), study_name=self._name, sampler=_NO_SAMPLER
            )
        return self._study

    @property
    def objective(self) -> Objective:
        """What the study optimizes."""
        return self._objective

    def trials(self) -> list[StudyTrial]:
        """Return all trials in the order they were asked for."""
        return [StudyTrial(trial) for trial in self.study.get_trials(deepcopy=False)]

    def trial(self, number: int) -> StudyTrial:
        """Return one trial."""
        return StudyTrial(self._storage.get_trial(self._stored_id(number)))

    def begin(
        self,
        trial_id: str,
        drawn: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        params: Mapping[str, Any],
        now: float,
        *,
        sampler_attrs: Mapping[str, Any] | None = None,
        enqueued: Mapping[str, Any] | None = None,
    ) -> int:
        """Add a running trial in one atomic write; returns its number.

        Args:
            trial_id: Ray's.
            drawn: its parameters in Optuna's names.
            distributions: what they were drawn from.
            params: its resolved parameters by dotted key.
            now: unix time in seconds.
            sampler_attrs: what the sampler has to find again.
            enqueued: the known point that it was made from.
        """
        attributes = self._start_attributes(trial_id, params, 1, now)
        if enqueued is not None:
            attributes[keys.ENQUEUED] = dict(enqueued)
        trial = create_trial(
            state=optuna.trial.TrialState.RUNNING,
            params=dict(drawn),
            distributions=dict(distributions),
            user_attrs=attributes,
            system_attrs=dict(sampler_attrs or {}),
        )
        return self._create(trial)

    def begin_again(self, number: int, trial_id: str, attempt: int, now: float) -> None:
        """Set a waiting trial running again under Ray's id."""
        self.set_running(number)
        trial = self.trial(number)
        attributes = self._start_attributes(trial_id, trial.params, attempt, trial.started or now)
        for name, value in attributes.items():
            self._storage.set_trial_user_attr(self._stored_id(number), name, value)

    def set_params(
        self,
        number: int,
        drawn: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        params: Mapping[str, Any],
    ) -> None:
        """Complete the parameters of a trial that was left without some of them.

        Only versions that drew in the stored study could leave such a trial, when they died in the middle.
        """
        trial = self.trial(number).frozen
        for name, value in drawn.items():
            if name not in trial.params:
                internal = distributions[name].to_internal_repr(value)
                self._storage.set_trial_param(self._stored_id(number), name, internal, distributions[name])
        self._storage.set_trial_user_attr(self._stored_id(number), keys.PARAMS, dict(params))

    def live(self, number: int) -> optuna.Trial:
        """Return a trial to report to."""
        return optuna.Trial(self.study, self._stored_id(number))

    def set_running(self, number: int) -> None:
        """Set a waiting trial running again."""
        self._storage.set_trial_state_values(self._stored_id(number), optuna.trial.TrialState.RUNNING)

    def set_waiting(self, number: int) -> None:
        """Let a running trial wait for a later process."""
        self._storage.set_trial_state_values(self._stored_id(number), optuna.trial.TrialState.WAITING)

    def enqueue_attempt(self, number: int, trial_id: str, begins_from: str | None) -> int:
        """Add another attempt at a trial that has ended, with the same parameters; returns its number.

        A trial's end cannot be taken back, so the attempt is a trial of its own that names the first one.
        """
        first = self.trial(number)
        attributes = {keys.FOLLOWS: number, keys.RAY_TRIAL_ID: trial_id, keys.BEGINS_FROM: begins_from}
        trial = create_trial(
            state=optuna.trial.TrialState.WAITING,
            params=first.frozen.params,
            distributions=first.frozen.distributions,
            user_attrs=attributes | {keys.PARAMS: dict(first.params)},
        )
        return self._create(trial)

    def report(self, number: int, step: int, attempt: int | None, value: float | None) -> None:
        """Store a record's step, and the objective's value at that step unless it is stored already."""
        trial = self.live(number)
        with self._together():
            trial.set_user_attr(keys.STEPS, step)
            if attempt is not None:
                trial.set_user_attr(keys.ATTEMPTS, attempt)
            if value is not None and step not in self.trial(number).intermediate_values:
                trial.report(value, step)

    def record_end(
        self,
        number: int,
        outcome: Outcome,
        value: float | None,
        now: float,
        *,
        metrics: Mapping[str, float] | None = None,
        infrastructure: bool = False,
    ) -> None:
        """Store how a trial ended.

        Args:
            number: the trial's.
            outcome: its terminal state, and why.
            value: the objective's, of a completed trial.
            now: unix time in seconds.
            metrics: of its last record, finite ones.
            infrastructure: it failed by the fault of a machine or a process, not by its configuration's.
        """
        trial = self.live(number)
        with self._together():
            for name in dict.fromkeys(_VIOLATED.values()):
                violated = _VIOLATED.get(outcome.state) == name and not infrastructure
                # A process that died here has set it already.
                if name not in trial.constraints:
                    trial.set_constraint(name, float(violated))
            trial.set_user_attr(keys.STATE, outcome.state.value)
            trial.set_user_attr(keys.ENDED, now)
            if metrics:
                trial.set_user_attr(keys.METRICS, dict(metrics))
            if outcome.reason:
                trial.set_user_attr(keys.REASON, outcome.reason)
            state = _OPTUNA_STATES.get(outcome.state, optuna.trial.TrialState.FAIL)
            self.study.tell(trial, value, state=state)

    def set_note(self, key: str, value: Any) -> None:
        """Store a fact about the whole study."""
        self.study.set_user_attr(key, value)

    def note(self, key: str) -> Any:
        """Return a fact about the whole study; `None` if it was never stored."""
        return self.study.user_attrs.get(key)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the connection."""
        return self.__dict__ | {"_study": None}

    @staticmethod
    def _start_attributes(
        trial_id: str, params: Mapping[str, Any], attempt: int, started: float
    ) -> dict[str, Any]:
        """Return what is known of a trial before it trains."""
        return {
            keys.RAY_TRIAL_ID: trial_id,
            keys.WANDB_RUN_ID: trial_id,
            keys.PARAMS: dict(params),
            keys.ATTEMPTS: attempt,
            keys.STARTED: started,
        }

    def _together(self) -> contextlib.AbstractContextManager[None]:
        """Write what belongs together at once where each write is a request to a store."""
        backend = getattr(self._storage, "_backend", None)
        return backend.together() if isinstance(backend, ObjectJournal) else contextlib.nullcontext()

    def _create(self, trial: FrozenTrial) -> int:
        stored = self._storage.create_new_trial(self.study._study_id, template_trial=trial)
        return self._storage.get_trial(stored).number

    @property
    def _storage(self) -> BaseStorage:
        return self.study._storage

    def _stored_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)

    def _check_direction(self) -> None:
        stored = self.study.direction.name.lower()
        if stored != self._objective.optuna_direction:
            raise ExperimentError(
                f"the study '{self._name}' was created to {stored} its objective, and the configuration asks "
                f"to {self._objective.optuna_direction} {self._objective.metric}. Set search.mode back, or "
                "begin a new search under another name."
            )


def _is_there(location: Location, name: str) -> bool:
    if isinstance(location, JournalPlace):
        return location.storage.exists(location.name)
    return location.exists() if isinstance(location, Path) else _has_study(location, name)


def _connect(location: Location) -> BaseStorage:
    # Optuna's own log lines would interrupt the live view.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if isinstance(location, JournalPlace):
        return _replayed(ObjectJournal(location), location.storage.place(location.name))
    if isinstance(location, Path):
        return _replayed(JournalFileBackend(str(location)), location)
    try:
        return RDBStorage(os.path.expandvars(location))
    except (ValueError, ImportError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise _unusable(location, error) from None


def _replayed(journal: BaseJournalBackend, place: Place) -> JournalStorage:
    """Return the storage of a journal, all of whose operations are carried out again here.

    Raises:
        ExperimentError: one of them is corrupt.
    """
    try:
        return JournalStorage(journal)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError) as error:
        raise ExperimentError(
            f"the study '{shown(place)}' is corrupt ({type(error).__name__}: {error}). Restore it from a "
            "copy; the trials' result logs and checkpoints are in their folders as before."
        ) from None


def _has_study(url: str, name: str) -> bool:
    """Return whether a database holds the study, without creating a file or a table."""
    try:
        parsed = sqlalchemy.make_url(os.path.expandvars(url))
        if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
            return False
        engine = sqlalchemy.create_engine(parsed)
        if not sqlalchemy.inspect(engine).has_table("studies"):
            return False
        query = sqlalchemy.text("SELECT 1 FROM studies WHERE study_name = :name")
        with engine.connect() as connection:
            return connection.execute(query, {"name": name}).first() is not None
    except (ValueError, ImportError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise _unusable(url, error) from None


def _unusable(url: str, error: Exception) -> ConfigError:
    reason = str(error).strip().splitlines()[0].rstrip(".")
    return ConfigError(
        f"search.storage '{url}' cannot be used: {reason}. Give a URL such as sqlite:///study.db or "
        "postgresql://user:${PASSWORD}@host/database, with its driver installed."
    )
