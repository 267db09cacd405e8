"""Reads a W&B sweep file: its parameters as axes, its other words as settings of a search.

What `wandb agent` would draw is drawn by Optuna here; a distribution that Optuna cannot draw is refused with
what to write instead. Meanings are those of W&B's sweep configuration reference: without a `distribution`,
`values` is a choice, `value` a constant, whole `min` and `max` an integer and others a float.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainable.errors import SpaceError, nearest

METHODS = {"bayes": "tpe", "random": "random", "grid": "grid"}
"""The sampler that stands for each of W&B's methods."""

SCRIPT_FLAGS = {
    "train_data": "data.train",
    "val_data": "data.val",
    "test_data": "data.test",
    "wandb_project": "wandb.project",
    "wandb_run_name": "wandb.name",
}
"""The configuration key behind each flag of `train_lora.py` that is not called like its key."""

_WORDS = ("program", "method", "metric", "parameters", "early_terminate", "run_cap", "command")
_TITLES = ("name", "description", "project", "entity")
_INSTEAD = {
    "q_log_uniform": "write `distribution: log_uniform_values`, or `values`",
    "q_log_uniform_values": "write `distribution: log_uniform_values`, or `values`",
    "inv_log_uniform": "write `distribution: log_uniform_values` with the ends swapped in meaning",
    "inv_log_uniform_values": "write `distribution: log_uniform_values`",
    "normal": "write `distribution: uniform` over the range that matters",
    "q_normal": "write `distribution: q_uniform` over the range that matters",
    "log_normal": "write `distribution: log_uniform_values` over the range that matters",
    "q_log_normal": "write `distribution: log_uniform_values` over the range that matters",
    "beta": "write `distribution: uniform`",
    "q_beta": "write `distribution: q_uniform`",
    "categorical_w_probabilities": "write `values` without `probabilities`",
}


@dataclass(frozen=True)
class Sweep:
    """A sweep file in loratune's words.

    Attributes:
        space: axes by key, as a space file has them.
        settings: configuration values by dotted key: sampler, objective, budget, project.
        first_evaluation: evaluations that a run gets before it can be stopped; `None`: none is stopped.
        reduction_factor: one run in this many goes on at each rung.
    """

    space: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]
    first_evaluation: int | None = None
    reduction_factor: float = 3.0


def read_sweep(path: Path) -> Sweep:
    """Read a sweep file.

    Raises:
        SpaceError: it is none, or says what a search cannot do; the message says what to write instead.
    """
    content = _load(path)
    for word in content:
        if word not in (*_WORDS, *_TITLES):
            allowed = (*_WORDS, *_TITLES)
            raise SpaceError(
                f"sweep '{path}': '{word}' is not understood.{nearest(str(word), allowed)} "
                f"Allowed: {', '.join(allowed)}."
            )
    method = content.get("method")
    if method not in METHODS:
        raise SpaceError(f"sweep '{path}': method {method!r} must be one of {', '.join(METHODS)}.")
    settings: dict[str, Any] = {"search.sampler": METHODS[method], **_objective(content, path)}
    settings |= {
        key: content[word]
        for word, key in (
            ("project", "wandb.project"),
            ("entity", "wandb.entity"),
            ("description", "wandb.notes"),
            ("run_cap", "search.num_trials"),
        )
        if word in content
    }
    space: dict[str, Mapping[str, Any]] = {}
    for key, axis in _axes(content, path).items():
        if key == "output_dir":
            continue  # A search has a folder of its own for each trial.
        if key in SCRIPT_FLAGS:
            if axis["type"] != "constant":
                raise SpaceError(f"sweep '{path}': '{key}' cannot be searched; give it one `value`.")
            settings[SCRIPT_FLAGS[key]] = axis["value"]
        else:
            space[key] = axis
    if not space:
        raise SpaceError(f"sweep '{path}': `parameters` names nothing that can be searched.")
    return Sweep(space, settings, *_early_terminate(content.get("early_terminate"), path))


def _load(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpaceError(f"sweep '{path}' cannot be read as YAML: {error}") from None
    if not isinstance(content, Mapping) or not isinstance(content.get("parameters"), Mapping):
        raise SpaceError(f"sweep '{path}' must be a mapping with `method`, `metric` and `parameters`.")
    return content


def _objective(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    metric = content.get("metric", {})
    if not isinstance(metric, Mapping) or (metric and "name" not in metric):
        raise SpaceError(f"sweep '{path}': metric {metric!r} must have a `name`.")
    goal = metric.get("goal", "minimize")
    modes = {"minimize": "min", "maximize": "max"}
    if goal not in modes:
        raise SpaceError(f"sweep '{path}': metric.goal {goal!r} must be minimize or maximize.")
    for word in metric:
        if word not in ("name", "goal"):
            raise SpaceError(
                f"sweep '{path}': metric.{word} has no counterpart in a search. Remove it; "
                "--search.timeout_s and --trials end a search."
            )
    return {"search.metric": metric["name"], "search.mode": modes[goal]} if metric else {}


def _early_terminate(told: Any, path: Path) -> tuple[int | None, float]:
    """Return the evaluations before the first rung, and eta (W&B's default: 3)."""
    if told is None:
        return None, 3.0
    if not isinstance(told, Mapping) or told.get("type") != "hyperband":
        raise SpaceError(f"sweep '{path}': early_terminate {told!r} must have `type: hyperband`.")
    eta = float(told.get("eta", 3))
    if "min_iter" in told:
        return int(told["min_iter"]), eta
    if "max_iter" in told and "s" in told:
        return max(1, int(told["max_iter"] / eta ** told["s"])), eta
    raise SpaceError(f"sweep '{path}': early_terminate needs `min_iter`, or `max_iter` and `s`.")


def _axes(content: Mapping[str, Any], path: Path, prefix: str = "") -> dict[str, dict[str, Any]]:
    """Return the parameters as axes by dotted key; nested ones are flattened."""
    found: dict[str, dict[str, Any]] = {}
    for name, told in content["parameters"].items():
        key = f"{prefix}{name}"
        if not isinstance(told, Mapping):
            raise SpaceError(f"sweep '{path}': parameter '{key}' is {told!r}; write `value: {told!r}`.")
        if "parameters" in told:
            found |= _axes(told, path, f"{key}.")
        else:
            found[key] = _axis(key, told, path)
    return found


def _axis(key: str, told: Mapping[str, Any], path: Path) -> dict[str, Any]:
    kind = told.get("distribution") or _implied(told)
    if kind is None:
        raise SpaceError(f"sweep '{path}': parameter '{key}' needs `values`, `value`, or `min` and `max`.")
    if len(set(told.get("probabilities", ()))) > 1:
        kind = "categorical_w_probabilities"
    if kind in _INSTEAD:
        raise SpaceError(
            f"sweep '{path}': parameter '{key}': a search cannot draw from {kind}; {_INSTEAD[kind]}."
        )
    if kind not in _DISTRIBUTIONS:
        allowed = ", ".join(_DISTRIBUTIONS)
        raise SpaceError(
            f"sweep '{path}': parameter '{key}': unknown distribution '{kind}'."
            f"{nearest(str(kind), _DISTRIBUTIONS)} Allowed: {allowed}."
        )
    try:
        return _DISTRIBUTIONS[kind](told)
    except KeyError as error:
        raise SpaceError(f"sweep '{path}': parameter '{key}': {kind} needs {error}.") from None


def _implied(told: Mapping[str, Any]) -> str | None:
    if "values" in told:
        return "categorical"
    if "value" in told:
        return "constant"
    if "min" not in told or "max" not in told:
        return None
    whole = isinstance(told["min"], int) and isinstance(told["max"], int)
    return "int_uniform" if whole else "uniform"


def _range(kind: str, low: float, high: float, **more: Any) -> dict[str, Any]:
    # One value is no range to Optuna.
    return (
        {"type": "constant", "value": low}
        if low == high
        else {"type": kind, "low": low, "high": high, **more}
    )


def _quantised(told: Mapping[str, Any]) -> dict[str, Any]:
    """Every multiple of q that W&B's rounding can give, each as likely as the others."""
    q = told.get("q", 1)
    low, high = (round(round(told[end] / q) * q, 12) for end in ("min", "max"))
    if isinstance(q, int):
        return _range("integer", int(low), int(high), step=q)
    return _range("uniform", low, high, step=q)


_DISTRIBUTIONS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "constant": lambda told: {"type": "constant", "value": told["value"]},
    "categorical": lambda told: {"type": "choice", "values": list(told["values"])},
    "int_uniform": lambda told: _range("integer", int(told["min"]), int(told["max"])),
    "uniform": lambda told: _range("uniform", float(told["min"]), float(told["max"])),
    "q_uniform": _quantised,
    "log_uniform": lambda told: _range("log_uniform", math.exp(told["min"]), math.exp(told["max"])),
    "log_uniform_values": lambda told: _range("log_uniform", float(told["min"]), float(told["max"])),
}
