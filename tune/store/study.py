"""The Optuna study of an experiment: opened, read and written here and nowhere else.

The study is one of an experiment's two sources of truth (the other is each trial's result log). Its trials
carry user attributes with everything a person or a resumed search needs; `StudyTrial` reads them with types.
A reader never creates a study: opening one that is not there yet gives `None`.
"""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
import sqlalchemy.exc
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from trainable.errors import ConfigError, ExperimentError
from trainable.objective import Objective
from trainable.records import Outcome, TrialState

_RAY_TRIAL_ID = "ray_trial_id"
_WANDB_RUN_ID = "wandb_run_id"
_PARAMS = "params"
_STATE = "trial_state"
_REASON = "reason"
_ATTEMPTS = "attempts"
_STARTED = "started"
_ENDED = "ended"
_STEPS = "steps"
_BEGINS_FROM = "begins_from"
_FOLLOWS = "follows"

_STATES = {
    optuna.trial.TrialState.WAITING: TrialState.PENDING,
    optuna.trial.TrialState.RUNNING: TrialState.RUNNING,
    optuna.trial.TrialState.COMPLETE: TrialState.COMPLETED,
    optuna.trial.TrialState.PRUNED: TrialState.PRUNED,
    optuna.trial.TrialState.FAIL: TrialState.FAILED,
}


@dataclass(frozen=True)
class StudyTrial:
    """One trial as the study has it."""

    frozen: FrozenTrial

    @property
    def number(self) -> int:
        """Its number, counted from 0."""
        return self.frozen.number

    @property
    def state(self) -> TrialState:
        """Its state: the one recorded at its end, else the one that Optuna's state stands for."""
        if self.frozen.state.is_finished() and _STATE in self.frozen.user_attrs:
            return TrialState(self.frozen.user_attrs[_STATE])
        return _STATES[self.frozen.state]

    @property
    def trial_id(self) -> str | None:
        """Ray's id, which names the trial's folder; `None` for a trial that Ray was never given."""
        return self.frozen.user_attrs.get(_RAY_TRIAL_ID)

    @property
    def wandb_run_id(self) -> str | None:
        """The id of its W&B run."""
        return self.frozen.user_attrs.get(_WANDB_RUN_ID)

    @property
    def params(self) -> Mapping[str, Any]:
        """Its resolved parameters by dotted key; Optuna's own where none were resolved yet."""
        return self.frozen.user_attrs.get(_PARAMS, self.frozen.params)

    @property
    def has_params(self) -> bool:
        """Whether all of its parameters were drawn."""
        return _PARAMS in self.frozen.user_attrs

    @property
    def intermediate_values(self) -> Mapping[int, float]:
        """The objective's values by step."""
        return self.frozen.intermediate_values

    @property
    def reason(self) -> str | None:
        """Why it ended, if there is something to say."""
        return self.frozen.user_attrs.get(_REASON)

    @property
    def started(self) -> float | None:
        """Unix time of its first start."""
        return self.frozen.user_attrs.get(_STARTED)

    @property
    def ended(self) -> float | None:
        """Unix time of its end."""
        return self.frozen.user_attrs.get(_ENDED)

    @property
    def begins_from(self) -> str | None:
        """The checkpoint of another trial that this one starts from, as `TRIAL_ID/CHECKPOINT`."""
        stored = self.frozen.user_attrs.get(_BEGINS_FROM)
        # Earlier versions stored an absolute path, which does not survive moving the experiment.
        return "/".join(Path(stored).parts[-2:]) if stored else None

    @property
    def follows(self) -> int | None:
        """The number of the trial that this one is another attempt at."""
        return self.frozen.user_attrs.get(_FOLLOWS)


class StudyStore:
    """A study in its storage. Pickling it keeps the place, not the connection."""

    def __init__(self, location: Path | str, name: str, objective: Objective) -> None:
        """Refer to a study; `create` and `open` are the ways in.

        Args:
            location: a journal file's path, or a database's URL, in which `$VARIABLE` stands for an
                environment variable.
            name: the study's.
            objective: what it optimizes.
        """
        self._location = location
        self._name = name
        self._objective = objective
        self._study: optuna.Study | None = None

    @classmethod
    def create(cls, location: Path | str, name: str, objective: Objective) -> "StudyStore":
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
            )
        store._check_direction()
        return store

    @classmethod
    def open(cls, location: Path | str, name: str, objective: Objective) -> "StudyStore | None":
        """Open the study if it is there; nothing is created.

        Raises:
            ExperimentError: it is there with another direction.
            ConfigError: the database cannot be used.
        """
        there = location.exists() if isinstance(location, Path) else _has_study(location, name)
        if not there:
            return None
        store = cls(location, name, objective)
        try:
            store._study = optuna.load_study(storage=_connect(location), study_name=name)
        except KeyError:
            return None
        store._check_direction()
        return store

    @property
    def study(self) -> optuna.Study:
        """Optuna's own object, for samplers and plots."""
        if self._study is None:
            self._study = optuna.load_study(storage=_connect(self._location), study_name=self._name)
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

    def ask(self, sampler: BaseSampler) -> optuna.Trial:
        """Begin a new trial."""
        self.study.sampler = sampler
        return self.study.ask()

    def live(self, number: int) -> optuna.Trial:
        """Return a trial to report to."""
        return optuna.Trial(self.study, self._stored_id(number))

    def reopen(self, number: int, sampler: BaseSampler) -> optuna.Trial:
        """Set a waiting trial running again."""
        self.study.sampler = sampler
        self._storage.set_trial_state_values(self._stored_id(number), optuna.trial.TrialState.RUNNING)
        return self.live(number)

    def set_waiting(self, number: int) -> None:
        """Let a running trial wait for a later process."""
        self._storage.set_trial_state_values(self._stored_id(number), optuna.trial.TrialState.WAITING)

    def enqueue_attempt(self, number: int, trial_id: str, begins_from: str | None) -> int:
        """Add another attempt at a trial that has ended, with the same parameters; returns its number.

        A trial's end cannot be taken back, so the attempt is a trial of its own that names the first one.
        """
        attributes = {_FOLLOWS: number, _RAY_TRIAL_ID: trial_id, _BEGINS_FROM: begins_from}
        self.study.enqueue_trial(self.trial(number).frozen.params, user_attrs=attributes)
        return self.study.ask().number

    def copy_before(self, number: int, sampler: BaseSampler) -> optuna.Study:
        """Return an in-memory copy of the study as it was before trial `number` was asked for."""
        copy = optuna.create_study(direction=self.study.direction, sampler=sampler)
        copy.add_trials([trial for trial in self.study.get_trials() if trial.number < number])
        return copy

    def record_start(
        self, trial: optuna.Trial, trial_id: str, params: Mapping[str, Any], attempt: int, now: float
    ) -> None:
        """Store what is known of a trial before it trains."""
        for name, value in {
            _RAY_TRIAL_ID: trial_id,
            _WANDB_RUN_ID: trial_id,
            _PARAMS: dict(params),
            _ATTEMPTS: attempt,
            _STARTED: trial.user_attrs.get(_STARTED, now),
        }.items():
            trial.set_user_attr(name, value)

    def report(self, number: int, step: int, attempt: int | None, value: float | None) -> None:
        """Store a record's step, and the objective's value at that step unless it is stored already."""
        trial = self.live(number)
        trial.set_user_attr(_STEPS, step)
        if attempt is not None:
            trial.set_user_attr(_ATTEMPTS, attempt)
        if value is not None and step not in self.trial(number).intermediate_values:
            trial.report(value, step)

    def record_end(
        self,
        number: int,
        optuna_state: optuna.trial.TrialState,
        outcome: Outcome,
        value: float | None,
        now: float,
    ) -> None:
        """Store how a trial ended."""
        trial = self.live(number)
        trial.set_user_attr(_STATE, outcome.state.value)
        trial.set_user_attr(_ENDED, now)
        if outcome.reason:
            trial.set_user_attr(_REASON, outcome.reason)
        self.study.tell(trial, value, state=optuna_state)

    def set_note(self, key: str, value: Any) -> None:
        """Store a fact about the whole study."""
        self.study.set_user_attr(key, value)

    def note(self, key: str) -> Any:
        """Return a fact about the whole study; `None` if it was never stored."""
        return self.study.user_attrs.get(key)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the connection."""
        return self.__dict__ | {"_study": None}

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


def _connect(location: Path | str) -> BaseStorage:
    # Optuna's own log lines would interrupt the live view.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if isinstance(location, Path):
        return JournalStorage(JournalFileBackend(str(location)))
    try:
        return RDBStorage(os.path.expandvars(location))
    except (ValueError, ImportError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise _unusable(location, error) from None


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
