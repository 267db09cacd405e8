"""What earlier experiments found, for the sampler of a new search (`search.warm_start`).

A trial of an earlier experiment counts where the new search could have run it: same base model, data and
objective, and a configuration that a point of the new space leads to, the seed left out. It then counts with
its values like a trial of the search itself, though it may be tried again. What counts is decided once, when
the search begins, and kept in its study: a resumed search does not need the earlier experiments any more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.trial import create_trial

from search_spaces import Space
from search_spaces.axes import Axis, Choice
from trainable.config import TrialConfig
from trainable.errors import ConfigError, SpaceError
from trainable.records import TrialState
from tune.config import Config
from tune.store import study_trial as keys
from tune.store.experiment import ExperimentStore
from tune.store.study_trial import StudyTrial

NOTE = "warm_start"
"""The note of the study that holds what counts."""
_COMPARED = ("lora", "training")
_STATES = {
    TrialState.COMPLETED: optuna.trial.TrialState.COMPLETE,
    TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
}


@dataclass(frozen=True)
class EarlierTrial:
    """A trial of an earlier experiment that counts.

    Attributes:
        values: for the axes of the new space, by dotted key.
        state: how it ended.
        value: the objective's, of a completed trial.
        reported: the objective's by step.
    """

    values: Mapping[str, Any]
    state: str
    value: float | None
    reported: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return it in types that JSON has."""
        return asdict(self)


def collect(config: Config, space: Space, identities: Mapping[str, str] | None = None) -> list[EarlierTrial]:
    """Return the trials of `search.warm_start` that count.

    Args:
        config: the new search's.
        space: the new search's.
        identities: notes that an earlier study must have with the same values; `None`: not compared.

    Raises:
        ExperimentError: there is no such experiment.
        ConfigError: one has another objective, data or base model, or no trial of it counts.
    """
    found = []
    for name in config.search.warm_start:
        store = ExperimentStore.find(name, config.search.results_dir)
        found += _of_one(name, store, config, space, identities or {})
    return found


def as_trials(earlier: Sequence[Mapping[str, Any]], space: Space) -> list[StudyTrial]:
    """Return what the study holds as trials of the present space; one outside it is left out.

    Args:
        earlier: `EarlierTrial`s as JSON.
        space: the present one.
    """
    found = []
    for place, content in enumerate(earlier):
        one = EarlierTrial(**content)
        try:
            point = space.resolve(_not_drawn, one.values)
        except (SpaceError, KeyError):
            continue
        state = TrialState(one.state)
        frozen = create_trial(
            state=_STATES.get(state, optuna.trial.TrialState.FAIL),
            value=one.value,
            params=dict(point.drawn),
            distributions={name: space.distributions[name] for name in point.drawn},
            user_attrs={keys.PARAMS: dict(point.params), keys.STATE: state.value},
            intermediate_values={int(step): value for step, value in one.reported.items()},
        )
        # Before the search's own, which count from 0.
        frozen.number = place - len(earlier)
        found.append(StudyTrial(frozen))
    return found


def _of_one(
    name: str, store: ExperimentStore, config: Config, space: Space, identities: Mapping[str, str]
) -> list[EarlierTrial]:
    old = store.read_config().config
    if old.objective != config.objective:
        raise ConfigError(
            f"search.warm_start: '{name}' optimized {old.objective.metric} ({old.objective.mode}), not "
            f"{config.objective.metric} ({config.objective.mode}). Leave it out, or take the same objective."
        )
    study = store.open_study(old)
    for key, present in identities.items():
        earlier = study.note(key) if study else None
        if earlier not in (None, present):
            what = "data" if key == "data_hash" else "base weights"
            raise ConfigError(
                f"search.warm_start: '{name}' has other {what}, so its values cannot be compared. Leave it "
                "out, or give its best points as search.enqueue."
            )
    old_space = Space.load(old.search.space, old.trial())
    counted, reasons = [], set()
    for trial in study.trials() if study else ():
        if not trial.state.is_terminal or not trial.tells_about_its_configuration:
            continue
        past = old_space.apply(old.trial(), trial.params)
        values, reason = _in_space(past, trial.params, config.trial(), space)
        if values is None:
            reasons.add(reason)
        else:
            reported = {str(step): value for step, value in trial.intermediate_values.items()}
            value = trial.frozen.value if trial.state is TrialState.COMPLETED else None
            counted.append(EarlierTrial(values, _state(trial).value, value, reported))
    if not counted:
        why = f" ({'; '.join(sorted(reasons)[:3])})" if reasons else ""
        raise ConfigError(
            f"search.warm_start: no trial of '{name}' is one that this search could run{why}. Leave it out, "
            "or make space and settings overlap."
        )
    return counted


def _state(trial: StudyTrial) -> TrialState:
    # What failed by its own configuration counts as what diverged: the constraint is not carried over.
    return TrialState.DIVERGED if trial.state is TrialState.FAILED else trial.state


def _in_space(
    past: TrialConfig, params: Mapping[str, Any], base: TrialConfig, space: Space
) -> tuple[dict[str, Any] | None, str]:
    """Return a past trial's values for the axes of a space; `None` and a reason if it is no point of it."""
    old = past.model_dump(mode="json")
    values = {
        key: _as_on(axis, params.get(key, old[key.partition(".")[0]][key.partition(".")[2]]))
        for key, axis in space.axes.items()
    }
    try:
        present = space.resolve(_not_drawn, values).params
    except SpaceError as error:
        return None, str(error).split(" (")[0]
    new = space.apply(base, present).model_dump(mode="json")
    for section in _COMPARED:
        for key, value in new[section].items():
            if value != old[section][key] and f"{section}.{key}" != "training.seed":
                return None, f"{section}.{key} was {old[section][key]}, not {value}"
    return {key: values[key] for key in present}, ""


def _as_on(axis: Axis, value: Any) -> Any:
    """Return a value as a choice has it: 32.0 of a configuration is 32 among [16, 32]."""
    if isinstance(axis, Choice) and not isinstance(value, bool):
        return next((one for one in axis.values if one == value and not isinstance(one, bool)), value)
    return value


def _not_drawn(name: str, distribution: object) -> Any:
    raise KeyError(name)
