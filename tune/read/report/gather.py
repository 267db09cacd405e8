"""Everything a report says, gathered once as plain values: JSON prints them, and the pages show them."""

import importlib.metadata
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import yaml

from trainable.cost import Cost
from trainable.evaluation.predictions import decode_predictions
from trainable.records import DEVICE, FUSED_WIDTH, TIME, TrialState
from tune.read.confirmed import find_verdict
from tune.read.format import parameters, score, shown_state
from tune.read.report.learnt import learn
from tune.read.trial_page import newest_predictions
from tune.search.schedulers import rungs
from tune.sections import SearchConfig
from tune.store.experiment import PREDICTIONS
from tune.store.reader import ExperimentData, TrialView

_PREDICTIONS = 8
_PACKAGES = ("ray", "torch", "transformers", "peft", "optuna", "wandb")


def gather(data: ExperimentData, now: float) -> dict[str, Any]:
    """Return the report's content, in types that JSON has.

    Args:
        data: the experiment.
        now: unix time in seconds.
    """
    board, status = data.leaderboard(), data.status()
    best = status.best
    learnt = learn(data, find_verdict(data))
    live = data.store.is_locked()
    trials = [_trial(data, trial, place, live) for place, trial in enumerate(board, 1)]
    _, *others = data.config.search.objectives
    front = {trial.number for trial in data.pareto_front()} if others else set()
    return {
        "experiment": data.store.name,
        "written": time.strftime("%Y-%m-%d %H:%M", time.localtime(now)),
        "objective": {"metric": data.objective.metric, "mode": data.objective.mode},
        "other_objectives": [{"metric": one.metric, "mode": one.mode} for one in others],
        "constraints": list(data.config.search.constraints),
        "front": sorted(front),
        "state": "running" if live else "finished" if status.finished else "not finished",
        "num_trials": status.num_trials,
        "counts": _counts(trials),
        "verdict": _verdict(data, best, learnt.sentences),
        "best": _best(data, best) if best else None,
        "learnt": {
            "sentences": list(learnt.sentences[1:]),
            "importance": dict(learnt.importance),
            "caution": learnt.caution,
            "regions": [vars(region) for region in learnt.regions],
            "wider": dict(learnt.wider),
        },
        "trials": trials,
        "rungs": rungs(data.config.search, _max_steps(data)) if _max_steps(data) else [],
        "failures": _failures(data),
        "cost": _cost(data),
        "predictions": _predictions(data, best),
        "environment": _environment(data),
    }


def _verdict(data: ExperimentData, best: TrialView | None, sentences: Sequence[str]) -> list[str]:
    """Return what to take home: the best setting, how sure that is, and what to do next."""
    if best is None:
        reasons = Counter(trial.reason for trial in data.trials if trial.reason)
        common = reasons.most_common(1)
        why = f" The most frequent reason: {common[0][0]}." if common else ""
        return [f"No trial has scored {data.objective.metric} yet.{why}"]
    value = data.objective.value(best.best_metrics)
    setting = parameters(best.params)
    return [
        f"Trial {best.number} is the best: {data.objective.metric} {score(value)} at step "
        f"{best.best_metrics['step']}, with {setting}.",
        *sentences[:1],
        *_front(data),
        *(_next(data)),
    ]


def _front(data: ExperimentData) -> list[str]:
    others = data.config.search.other_objectives
    if not others:
        return []
    numbers = [str(trial.number) for trial in data.pareto_front()]
    return [
        f"No trial beats {'trials' if len(numbers) > 1 else 'trial'} {', '.join(numbers)} in "
        f"{data.objective.metric} and {', '.join(others)} at once."
    ]


def _next(data: ExperimentData) -> list[str]:
    name = data.store.typed(SearchConfig().results_dir)
    if not data.status().finished:
        if data.store.is_locked():
            return ["The search is still running; this is what is known so far."]
        return [f"The search was not finished. Resume it: loratune resume {name}"]
    return [f"Take the best adapter home: loratune export {name}"]


def _best(data: ExperimentData, best: TrialView) -> dict[str, Any]:
    nested: dict[str, dict[str, Any]] = {}
    for key, value in best.params.items():
        section, _, name = key.partition(".")
        nested.setdefault(section, {})[name] = value
    metrics = data.store.best_metrics()
    same = metrics.get("trial_id") == best.trial_id
    return {
        "number": best.number,
        "value": data.objective.value(best.best_metrics),
        "step": best.best_metrics["step"],
        "params": dict(best.params),
        "yaml": yaml.safe_dump(nested, sort_keys=False),
        "test": {key: value for key, value in metrics.items() if key.startswith("test/")} if same else {},
        "data_hash": metrics.get("data_hash") if same else None,
    }


def _counts(trials: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the number of trials in each state that one is in, in the states' order."""
    counts = Counter(trial["state"] for trial in trials)
    return {state.value: counts[state.value] for state in TrialState if counts[state.value]}


def _trial(data: ExperimentData, trial: TrialView, rank: int, live: bool) -> dict[str, Any]:
    study = data.study_trials[trial.number]
    records = [record for record in trial.records if data.objective.metric in record]
    widths = [record[FUSED_WIDTH] for record in trial.records if record.get(FUSED_WIDTH)]
    last = trial.records[-1] if trial.records else {}
    return {
        "rank": rank,
        "number": trial.number,
        "state": shown_state(trial.state, live=live).value,
        "value": data.objective.value(trial.best_metrics),
        "others": {one.metric: one.value(trial.best_metrics) for one in data.config.search.objectives[1:]},
        "params": dict(trial.params),
        "steps": trial.steps,
        "duration_s": trial.duration_s,
        "reason": trial.reason,
        "started": study.started,
        "ended": study.ended or last.get(TIME),
        "device": last.get(DEVICE),
        "fused_width": sum(widths) / len(widths) if widths else None,
        "curve": [[record.step, data.objective.measured(record)] for record in records],
    }


def _max_steps(data: ExperimentData) -> int:
    return max((record.max_steps or 0 for trial in data.trials for record in trial.records[-1:]), default=0)


def _failures(data: ExperimentData) -> list[dict[str, Any]]:
    """Return the reasons of trials that neither completed nor were pruned, with their trials."""
    reasons: dict[tuple[str, str], list[int]] = {}
    for trial in data.trials:
        if trial.state.value in ("diverged", "oom", "failed"):
            reasons.setdefault((trial.state.value, trial.reason or "no reason given"), []).append(
                trial.number
            )
    return [{"state": state, "reason": why, "trials": numbers} for (state, why), numbers in reasons.items()]


def _cost(data: ExperimentData) -> dict[str, float]:
    cost = Cost.of(data.logs)
    trial_s = sum(trial.duration_s or 0.0 for trial in data.trials)
    return {"trial_hours": trial_s / 3600, "device_hours": cost.device_s / 3600, "tokens": cost.tokens}


def _predictions(data: ExperimentData, best: TrialView | None) -> list[dict[str, str]]:
    """Return texts of the best adapter, else of the best trial's last evaluation with texts."""
    rows = []
    with suppress(OSError, ValueError):
        rows = decode_predictions(data.store.read_best(PREDICTIONS))
    if not rows and best is not None:
        rows = newest_predictions(data, best)
    return [
        {"input": row.prompt, "reference": row.reference, "prediction": row.prediction}
        for row in rows[:_PREDICTIONS]
    ]


def _environment(data: ExperimentData) -> dict[str, str]:
    config = data.config
    facts = {
        "base model": config.model.name,
        "training rows": str(config.data.train),
        "validation rows": str(config.data.val),
        "test rows": str(config.data.test),
        "sampler": config.search.sampler,
        "scheduler": config.search.scheduler,
        "seed": str(config.training.seed),
    }
    for key, what in (("data_hash", "data, by content"), ("base_id", "base model, by content")):
        if data.study is not None and data.study.note(key):
            facts[what] = str(data.study.note(key))
    versions = []
    for name in ("loratune", *_PACKAGES):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    facts["report written with"] = f"Python {platform.python_version()}, {', '.join(versions)}"
    return facts
