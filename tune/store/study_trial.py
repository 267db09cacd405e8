"""One trial of a study, read with types; what Optuna has no field for is in its user attributes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from trainable.records import TrialState

RAY_TRIAL_ID = "ray_trial_id"
WANDB_RUN_ID = "wandb_run_id"
PARAMS = "params"
STATE = "trial_state"
REASON = "reason"
ATTEMPTS = "attempts"
STARTED = "started"
ENDED = "ended"
STEPS = "steps"
BEGINS_FROM = "begins_from"
FOLLOWS = "follows"
ENQUEUED = "enqueued"
METRICS = "metrics"
_CONSTRAINTS = "constraints"
"""The prefix of Optuna's system attributes for constraints."""

_NAMES = frozenset(TrialState)
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
        stored = self._attribute(STATE, str)
        if self.frozen.state.is_finished() and stored in _NAMES:
            return TrialState(stored)
        return _STATES[self.frozen.state]

    @property
    def trial_id(self) -> str | None:
        """Ray's id, which names the trial's folder; `None` for a trial that Ray was never given."""
        return self._attribute(RAY_TRIAL_ID, str)

    @property
    def wandb_run_id(self) -> str | None:
        """The id of its W&B run."""
        return self._attribute(WANDB_RUN_ID, str)

    @property
    def params(self) -> Mapping[str, Any]:
        """Its resolved parameters by dotted key; Optuna's own where none were resolved yet."""
        stored = self._attribute(PARAMS, dict)
        return self.frozen.params if stored is None else stored

    @property
    def has_params(self) -> bool:
        """Whether all of its parameters were drawn."""
        return self._attribute(PARAMS, dict) is not None

    @property
    def is_infeasible(self) -> bool:
        """Whether its configuration, and not the infrastructure, kept it from training to an end."""
        if self.state is TrialState.FAILED:
            return any(value > 0 for value in self.frozen.constraints.values())
        return self.state in (TrialState.OOM, TrialState.DIVERGED)

    @property
    def tells_about_its_configuration(self) -> bool:
        """Whether it has parameters, and did not fail by the infrastructure's fault."""
        return self.has_params and (self.state is not TrialState.FAILED or self.is_infeasible)

    @property
    def sampler_attrs(self) -> Mapping[str, Any]:
        """What the sampler stored with it, by the sampler's own names."""
        attrs = self.frozen.system_attrs.items()
        return {name: value for name, value in attrs if not name.startswith(_CONSTRAINTS)}

    @property
    def enqueued(self) -> Mapping[str, Any] | None:
        """The known point that it was made from; `None` if the sampler suggested it."""
        return self._attribute(ENQUEUED, dict)

    @property
    def intermediate_values(self) -> Mapping[int, float]:
        """The objective's values by step."""
        return self.frozen.intermediate_values

    @property
    def metrics(self) -> Mapping[str, float]:
        """The finite metrics of its last record, once it has ended."""
        return self._attribute(METRICS, dict) or {}

    @property
    def reason(self) -> str | None:
        """Why it ended, if there is something to say."""
        return self._attribute(REASON, str)

    @property
    def started(self) -> float | None:
        """Unix time of its first start."""
        return self._attribute(STARTED, float, int)

    @property
    def ended(self) -> float | None:
        """Unix time of its end."""
        return self._attribute(ENDED, float, int)

    @property
    def begins_from(self) -> str | None:
        """The checkpoint of another trial that this one starts from, as `TRIAL_ID/CHECKPOINT`."""
        stored = self._attribute(BEGINS_FROM, str)
        # Earlier versions stored an absolute path, which does not survive moving the experiment.
        return "/".join(Path(stored).parts[-2:]) if stored else None

    @property
    def follows(self) -> int | None:
        """The number of the trial that this one is another attempt at."""
        return self._attribute(FOLLOWS, int)

    def _attribute(self, name: str, *kinds: type) -> Any:
        """Return a user attribute; `None` if it is absent or has another type than it is stored with."""
        value = self.frozen.user_attrs.get(name)
        return value if isinstance(value, kinds) else None
