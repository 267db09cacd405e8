"""The words one trial is told in: states, and the keys of a metrics record.

A metrics record is a flat dictionary. It leaves the engine once per evaluation and reaches, unchanged, Ray,
Optuna, W&B, the trial's result log and the terminal. Every key that appears in one is named here.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal


class TrialState(StrEnum):
    """What became of a trial. Only the last five are ends."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    OOM = "oom"
    FAILED = "failed"

    @property
    def is_end(self) -> bool:
        """Whether a trial in this state will never train again."""
        return self not in (TrialState.PENDING, TrialState.RUNNING)


ERROR_NAME = "error.txt"
"""The file, in a trial's folder, with the last error that ended one of its attempts."""

STEP = "step"
"""Optimiser steps the trial has taken."""
MAX_STEPS = "max_steps"
"""Optimiser steps the trial takes if nothing stops it."""
STATE = "trial_state"
"""A `TrialState`: `running` until the record that ends the trial."""
REASON = "reason"
"""One sentence on why the trial ended, in the record that ends it; absent for `completed`."""
DEVICE = "device"
"""The device the trial trains on, such as `cpu` or `cuda:0`."""
FUSED_WIDTH = "fused_width"
"""Mean number of trials in the fused steps that this trial took part in since its last record."""
WAITING = "waiting_s"
"""Seconds, since the last record, in which the engine worked for other trials and not for this one."""
ATTEMPT = "attempt"
"""1, and one more each time the trial goes on from a checkpoint."""

TRAIN_LOSS = "train/loss"
TRAIN_LEARNING_RATE = "train/learning_rate"
TRAIN_EPOCH = "train/epoch"
TRAIN_GRAD_NORM = "train/grad_norm"
TRAIN_TOKENS_PER_SECOND = "train/tokens_per_second"

EVAL_LOSS = "eval/loss"
EVAL_READABILITY = "eval/readability_score"
EVAL_LENGTH_SIMILARITY = "eval/length_similarity"
EVAL_VOCABULARY_DIVERSITY = "eval/vocabulary_diversity"
EVAL_OVERALL = "eval/overall_score"

NLG_BLEU = "nlg/bleu_score"
NLG_ROUGE_1 = "nlg/rouge_1_f"
NLG_ROUGE_2 = "nlg/rouge_2_f"
NLG_ROUGE_L = "nlg/rouge_l_f"

WEATHER_TEMPERATURE_MAE = "weather/temperature_mae"
WEATHER_TEMPERATURE_ACCURACY = "weather/temperature_accuracy"
WEATHER_TEMPERATURE_COVERAGE = "weather/temperature_coverage"
WEATHER_WIND_MAE = "weather/wind_speed_mae"
WEATHER_WIND_COVERAGE = "weather/wind_speed_coverage"
WEATHER_GUST_MAE = "weather/wind_gust_mae"
WEATHER_GUST_COVERAGE = "weather/wind_gust_coverage"
WEATHER_CHANCE_MAE = "weather/precipitation_chance_mae"
WEATHER_PRECIPITATION_ACCURACY = "weather/precipitation_accuracy"
WEATHER_PRECIPITATION_COVERAGE = "weather/precipitation_coverage"

WATCHED = "watched"
"""A list of what `trainable.engine.histograms` saw since the last record; one object a watched step."""
PREDICTIONS = "predictions"
"""A list of `Prediction`s as objects, where texts were generated."""
BULKY = frozenset({WATCHED, PREDICTIONS})
"""Keys for tracking alone: neither the result log nor a checkpoint keeps them."""


def metrics(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of a record, which all have a slash in their key."""
    return {key: value for key, value in record.items() if "/" in key and not key.startswith("config/")}


def best_is(key: str) -> Literal["min", "max"]:
    """Say whether less or more of a metric is better: less of a loss or an error, more of all others."""
    return "min" if key.endswith(("loss", "_mae")) else "max"
