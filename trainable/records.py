"""The record of one evaluation of one trial, and the states a trial can be in.

A metrics record leaves the engine once per evaluation and reaches Ray, Optuna, W&B, the trial's result log
and the terminal unchanged. It is a flat dictionary, because that is what each of them takes; `MetricsRecord`
adds typed access and decides, in one place, which keys each reader gets. Every key that is not a metric is
named here; the metrics themselves are in `trainable.evaluation.catalogue`.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class TrialState(StrEnum):
    """The state of a trial. All but the first two are terminal."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    OOM = "oom"
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        """Whether a trial in this state never trains again."""
        return self not in (TrialState.PENDING, TrialState.RUNNING)


STEP = "step"
"""Optimizer steps taken."""
MAX_STEPS = "max_steps"
"""Optimizer steps the trial takes unless something stops it."""
STATE = "trial_state"
"""A `TrialState`: `running` in every record but the trial's last."""
REASON = "reason"
"""One sentence on why the trial ended, in its last record; absent for `completed`."""
TIME = "time"
"""Unix time, in seconds, at which the record was logged."""
DEVICE = "device"
"""The device the trial trains on, such as `cpu` or `cuda:0`."""
NODE = "node"
"""The host name of the machine that the trial trains on."""
NODE_ID = "node_id"
"""Ray's id of that machine."""
FUSED_WIDTH = "fused_width"
"""Mean number of trials in the fused steps that this trial took part in since its last record."""
WAITING = "waiting_s"
"""Seconds since the last record that the engine spent on other trials only."""
ATTEMPT = "attempt"
"""1, plus one for each time the trial was resumed from a checkpoint."""
ITERATION = "training_iteration"
"""Ray Tune's own counter of results."""
JUDGED = "judged"
"""What Ray's schedulers compare trials by, and its checkpoints are kept by; see `Objective.judged`."""
HISTOGRAMS = "watched"
"""A list of the adapter's histograms since the last record; one object per sampled step."""
PREDICTIONS = "predictions"
"""A list of `Prediction`s as objects, where texts were generated."""

TRAIN_LOSS = "train/loss"
TRAIN_LEARNING_RATE = "train/learning_rate"
TRAIN_EPOCH = "train/epoch"
TRAIN_GRAD_NORM = "train/grad_norm"
TRAIN_TOKENS_PER_SECOND = "train/tokens_per_second"
TRAIN_ADAPTER_PARAMETERS = "train/adapter_parameters"
OF_DEVICE = "device/"
"""What begins so tells of the device that the trial trained on."""
DEVICE_SHARE = "device/share"
"""The trial's share of the device: the others of its pack have the rest."""
DEVICE_CPU = "device/cpu_percent"
DEVICE_MEMORY = "device/memory_gb"
DEVICE_BUSY = "device/gpu_percent"
DEVICE_POWER = "device/power_watts"
EVAL_LOSS = "eval/loss"
EVAL_ROWS = "eval/rows"
"""The rows that `eval/loss` is computed on."""
EVAL_OVERALL = "eval/overall_score"
EVAL_CEILING = "eval/overall_ceiling"
"""The overall score of the references themselves."""
EVAL_TEXT_ROWS = "eval/text_rows"
"""The rows that texts were generated and scored for."""
EVAL_UNFINISHED = "eval/unfinished_share"
"""The share of the generated texts that reached the limit of tokens before they ended."""

_BULKY = frozenset({HISTOGRAMS, PREDICTIONS})
_LOGGED = frozenset(
    {STEP, MAX_STEPS, STATE, REASON, TIME, DEVICE, NODE, NODE_ID, FUSED_WIDTH, WAITING, ATTEMPT, ITERATION}
)
_COUNTS = frozenset({STEP, MAX_STEPS, ATTEMPT, ITERATION})
_TEXTS = frozenset({REASON, DEVICE, NODE, NODE_ID})
_STATES = frozenset(TrialState)
_LARGEST_COUNT = 2**53
_LATEST = 1e11
"""A time that every platform can show as a date."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended, and why."""

    state: TrialState
    reason: str | None = None


class MetricsRecord(dict[str, Any]):
    """One evaluation of one trial; see the module's description."""

    @classmethod
    def parse(cls, line: bytes) -> "MetricsRecord | None":
        """Read a line of a result log; `None` if it is truncated or corrupt.

        A key with a value of another type than it is logged with makes the line corrupt, so that no reader
        meets one.
        """
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            return None
        if not isinstance(record, dict) or STEP not in record:
            return None
        return cls(record) if all(_is_valid(key, value) for key, value in record.items()) else None

    @property
    def step(self) -> int:
        """Optimizer steps taken; 0 in an empty record."""
        return int(self.get(STEP, 0))

    @property
    def max_steps(self) -> int | None:
        """Optimizer steps of the full trial, if the record says so."""
        return self.get(MAX_STEPS)

    @property
    def state(self) -> TrialState:
        """The state the trial reported."""
        return TrialState(self.get(STATE, TrialState.RUNNING))

    @property
    def reason(self) -> str | None:
        """Why the trial ended, if it reported an end other than completion."""
        return self.get(REASON)

    @property
    def attempt(self) -> int:
        """The attempt the record is from."""
        return int(self.get(ATTEMPT, 1))

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics: every key with a slash, except Ray's copies of the configuration."""
        return {key: value for key, value in self.items() if "/" in key and not key.startswith("config/")}

    def without_bulk(self) -> "MetricsRecord":
        """Return the record without histograms and predictions: what a checkpoint keeps."""
        return MetricsRecord({key: value for key, value in self.items() if key not in _BULKY})

    def for_log(self) -> "MetricsRecord":
        """Return what the result log keeps, in types that JSON has; a number that is not finite is null."""
        kept = {key: value for key, value in self.items() if key in _LOGGED} | self.metrics
        return MetricsRecord({key: _plain(value) for key, value in kept.items()})

    def for_tracking(self) -> "MetricsRecord":
        """Return what a tracked run gets: its place in the search, metrics, histograms and predictions."""
        kept = {STEP, FUSED_WIDTH, WAITING, ATTEMPT, *_BULKY}
        return MetricsRecord({key: value for key, value in self.items() if key in kept} | self.metrics)

    def outcome(self, *, error: bool = False) -> Outcome:
        """Return how the trial of which this is the last record ended.

        A trial reports itself that it completed, diverged or ran out of memory. One whose last record says
        `running` was stopped by the scheduler, unless Ray reports an error.

        Args:
            error: whether Ray ended the trial with an error.
        """
        if self.state.is_terminal:
            return Outcome(self.state, self.reason)
        if error or not self:
            return Outcome(TrialState.FAILED, self.reason or "the trial's process ended with an error")
        return Outcome(TrialState.PRUNED, f"stopped by the scheduler at step {self.step}")


def step_and_metrics(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record's step and metrics, as tables show them."""
    return {key: value for key, value in record.items() if key == STEP or "/" in key}


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_valid(key: str, value: Any) -> bool:
    """Return whether a logged value has its key's type; a key that is not known may have any."""
    if key in _COUNTS:
        absent = value is None and key == MAX_STEPS
        return absent or (type(value) is int and 0 <= value < _LARGEST_COUNT)
    if key == STATE:
        return isinstance(value, str) and value in _STATES
    if key == TIME:
        return _is_number(value) and 0 <= value <= _LATEST
    if key in _TEXTS:
        return value is None or isinstance(value, str)
    if key in (FUSED_WIDTH, WAITING) or ("/" in key and not key.startswith("config/")):
        return value is None or _is_number(value)
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
