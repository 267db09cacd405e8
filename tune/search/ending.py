"""Why a search ends before it has tried all of its trials, and whose fault a failed trial was."""

import importlib.util
import re
from collections.abc import Mapping, Sequence

from optuna.samplers import RandomSampler

from search_spaces import Space
from trainable.cost import Cost
from trainable.errors import ConfigError
from trainable.objective import Objective, pareto_front
from trainable.records import MetricsRecord, Outcome, TrialState
from tune.search.gaussian import improvement_left
from tune.search.sampling_view import sampling_view
from tune.sections import SearchConfig
from tune.store.study_trial import StudyTrial

HOPELESS = 3
"""This many trials that fail in the same way, before any has done better, end the search."""

ABANDONED = 8
"""This many trials in a row that the infrastructure fails, while no trial reports, end the search."""

_INFRASTRUCTURE = re.compile(
    r"^ray\.exceptions\.(?!RayTaskError)\w+"
    r"|^(?:\w+\.)*(?:OSError|IOError|StorageError|FileNotFoundError|PermissionError|BlockingIOError"
    r"|InterruptedError"
    r"|ConnectionError|ConnectionResetError|ConnectionRefusedError|ConnectionAbortedError|BrokenPipeError"
    r"|TimeoutError|ImportError|ModuleNotFoundError|AcceleratorError|NodeError"
    r"|\w*(?:Actor|Node|Worker|Raylet|Object)\w*(?:Died|Crashed|Lost|Unavailable|Setup)\w*Error)\b"
    r"|\b(?:CUDA|NCCL|cuDNN|CUBLAS)\b.*\berror|\bNo space left\b|\bstale file handle\b"
    r"|\ball nodes in the cluster have read/write access\b",
    re.IGNORECASE,
)
"""The last line of an error that a machine, a process or a disk causes, not a trial's configuration."""


def is_infrastructure_fault(error: str | None) -> bool:
    """Return whether a trial that Ray ended with an error failed by the infrastructure's fault.

    Args:
        error: the last line of the error that the trial left; `None` if its process ended without one.
    """
    return error is None or _INFRASTRUCTURE.search(error) is not None


def check_ending(search: SearchConfig, space: Space) -> None:
    """Check that a search can end as configured.

    Raises:
        ConfigError: `search.min_improvement` cannot be applied to this search.
    """
    if search.min_improvement is None:
        return
    if len(search.objectives) > 1:
        raise ConfigError(
            "search.min_improvement is about one objective, and search.other_objectives adds "
            f"{', '.join(search.other_objectives)}. Use search.patience, which follows the Pareto front."
        )
    if space.is_conditional:
        raise ConfigError(
            "search.min_improvement models one fixed set of axes, and the space has axes with `when`. Remove "
            "the conditions, or use search.patience."
        )
    if importlib.util.find_spec("scipy") is None:
        raise ConfigError(
            "search.min_improvement needs the package 'scipy': pip install 'loratune[samplers]', or use "
            "search.patience."
        )


class EarlyEnd:
    """Decides whether a search ends before all of its trials were tried."""

    def __init__(self, search: SearchConfig, space: Space, spent: Cost) -> None:
        """End a search of `space` as `search` says, in which trials have `spent` something before."""
        self._search = search
        self._space = space
        self._objectives = search.objectives
        self._spent = spent
        self._failures: list[str] | None = []
        self._faults: list[str] = []

    def add(self, outcome: Outcome) -> None:
        """Take note of a trial's end that was not the infrastructure's fault."""
        if outcome.state is not TrialState.FAILED:
            self._failures = None
        elif self._failures is not None:
            self._failures.append(str(outcome.reason))

    def add_fault(self, outcome: Outcome) -> None:
        """Take note of a trial that the infrastructure failed for good."""
        self._faults.append(str(outcome.reason))

    def on_record(self, trial_id: str, record: MetricsRecord, now: float) -> None:
        """Take note that a trial reported: the infrastructure works, at least in part."""
        self._faults.clear()
        self._spent.add(trial_id, record, now)

    def reason(self, trials: Sequence[StudyTrial]) -> str | None:
        """Return why nothing more is tried; `None`: the search continues.

        Args:
            trials: all trials of the study.
        """
        if len(self._faults) >= ABANDONED:
            return (
                f"the infrastructure failed {len(self._faults)} trials in a row, and no trial reported in "
                f"between: {self._faults[-1]}. Repair the cluster, then resume with --retry_failed"
            )
        failures = self._failures or []
        if len(failures) >= HOPELESS and len(set(failures)) == 1:
            return f"the first {HOPELESS} trials all failed in the same way: {failures[0]}"
        return (
            self._used_up()
            or self._target_reached(trials)
            or self._no_improvement(trials)
            or self._little_to_gain(trials)
        )

    def _used_up(self) -> str | None:
        hours, tokens = self._search.max_device_hours, self._search.max_tokens
        if hours is not None and self._spent.device_s >= 3600 * hours:
            used = self._spent.device_s / 3600
            return f"the trials have used {used:.3g} device-hours, and search.max_device_hours is {hours:g}"
        if tokens is not None and self._spent.tokens >= tokens:
            used = self._spent.tokens
            return f"the trials were trained on {used:,.0f} tokens, and search.max_tokens is {tokens:,}"
        return None

    def _target_reached(self, trials: Sequence[StudyTrial]) -> str | None:
        target, objective = self._search.target, self._objectives[0]
        if target is None:
            return None
        for trial in trials:
            value = objective.value(_reached(trial, objective))
            if value is not None and not objective.is_better(target, value):
                return (
                    f"trial {trial.number} reached {objective.metric} = {value:.6g}, "
                    f"and search.target is {target:.6g}"
                )
        return None

    def _no_improvement(self, trials: Sequence[StudyTrial]) -> str | None:
        patience = self._search.patience
        if patience is None:
            return None
        ended = sorted(
            (trial for trial in trials if trial.state.is_terminal and trial.tells_about_its_configuration),
            key=lambda trial: (trial.ended or 0.0, trial.number),
        )
        # The records that no later one has dominated; with one objective, the best.
        front: list[Mapping[str, float]] = []
        since = 0
        for trial in ended:
            since += 1
            reached = _reached(trial, self._objectives[0])
            kept = pareto_front([*front, reached], self._objectives)
            if len(front) in kept and reached not in front:
                front, since = [[*front, reached][place] for place in kept], 0
        if not front or since < patience:
            return None
        objective = self._objectives[0]
        best = f"{objective.metric} = {objective.measured(objective.best(front) or {}):.6g}"
        what = f"the Pareto front of {len(front)}" if len(self._objectives) > 1 else best
        return f"the last {since} trials did not improve on {what} (search.patience is {patience})"

    def _little_to_gain(self, trials: Sequence[StudyTrial]) -> str | None:
        least, objective = self._search.min_improvement, self._objectives[0]
        if least is None or objective.best(_reached(trial, objective) for trial in trials) is None:
            return None
        view = sampling_view(
            trials, self._space.distributions, [objective], RandomSampler(), reads_constraints=False
        )
        left = improvement_left(view)
        if left is None or left >= least:
            return None
        return (
            f"the next trial is expected to improve {objective.metric} by {left:.2g}, "
            f"and search.min_improvement is {least:g}"
        )


def _reached(trial: StudyTrial, objective: Objective) -> Mapping[str, float]:
    """Return what a completed trial ended with; what others reported on the way does not count."""
    if trial.state is not TrialState.COMPLETED or trial.frozen.value is None:
        return {}
    return {**trial.metrics, objective.metric: trial.frozen.value}
