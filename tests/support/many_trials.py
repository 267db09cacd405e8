"""An experiment with many trials, written through the stores themselves but without a searcher's draws."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial

from trainable.evaluation.predictions import Prediction, encode_predictions
from trainable.records import MetricsRecord, TrialState
from tune.config import Config
from tune.store.experiment import ExperimentStore

STEPS = 100
EVERY = 20


def floor(rate: float, exponent: int, ratio: float) -> float:
    """Return a loss that is lowest at a learning rate of 3e-3 and falls a little with the rank."""
    return 0.8 + 0.3 * math.log10(rate / 3e-3) ** 2 - 0.02 * exponent


def many_trials(
    folder: Path,
    count: int,
    *,
    running: int = 0,
    loss: Callable[[float, int, float], float] = floor,
    seed: int = 0,
    **settings: Any,
) -> ExperimentStore:
    """Write an experiment of trials that were drawn at random.

    Args:
        folder: the experiment's.
        count: trials in all; one in nine diverges and one in five is pruned at step 40.
        running: how many of the last ones still run.
        loss: what a trial would reach without noise, by its learning rate, the exponent of its rank (1 to 6),
            and its alpha / rank.
        seed: of the draws.
        settings: of `search`.
    """
    space = {
        "training.learning_rate": {"type": "log_uniform", "low": 1e-4, "high": 1e-1},
        "lora.r": {"type": "power_of_two", "low": 2, "high": 64},
        "lora.alpha": {"type": "ratio", "of": "lora.r", "low": 0.5, "high": 4.0},
    }
    search = {"name": folder.name, "num_trials": count, "space": space, "results_dir": folder.parent}
    config = Config.model_validate(
        {
            "search": search | {"mode": "min"} | settings,
            "training": {"max_steps": STEPS},
            "evaluation": {"eval_every_steps": EVERY},
            "wandb": {"mode": "disabled"},
        }
    )
    store = ExperimentStore.create(config)
    study = store.create_study(config).study
    chance = random.Random(seed)
    trials = []
    for number in range(count):
        trials.append(_trial(store, number, chance, loss, is_running=number >= count - running))
    study.add_trials(trials)
    return store


def _trial(
    store: ExperimentStore,
    number: int,
    chance: random.Random,
    loss_of: Callable[[float, int, float], float],
    *,
    is_running: bool,
) -> Any:
    rate, exponent = 10 ** chance.uniform(-4, -1), chance.randint(1, 6)
    ratio = chance.choice([0.5, 1.0, 2.0, 4.0])
    rank = 2**exponent
    state = TrialState.COMPLETED
    if is_running:
        state = TrialState.RUNNING
    elif number % 9 == 8:
        state = TrialState.DIVERGED
    elif number % 5 == 4:
        state = TrialState.PRUNED
    last = {TrialState.PRUNED: 40, TrialState.RUNNING: 60}.get(state, STEPS)
    reached = loss_of(rate, exponent, ratio) + chance.gauss(0, 0.01)
    trial_id, began = f"{number:08x}", 1_000_000.0 + 30 * (number // 4)
    values, lines = {}, []
    for step in range(EVERY, last + 1, EVERY):
        diverged = state is TrialState.DIVERGED and step == last
        loss = None if diverged else reached + math.exp(-step / 40)
        record = MetricsRecord(
            {
                "time": began + step / 5,
                "step": step,
                "max_steps": STEPS,
                "trial_state": state.value if step == last and state is not TrialState.PRUNED else "running",
                "device": "cuda:0",
                "fused_width": 4.0,
                "attempt": 1,
                "eval/loss": loss,
                "train/loss": None if diverged else reached + math.exp(-step / 35),
                "train/tokens_per_second": 12_000.0,
            }
        )
        lines.append(json.dumps(record))
        if loss is not None:
            values[step] = loss
    # In one write: appending a line at a time, durably, would take most of a test's time.
    folder = store.folder / trial_id
    folder.mkdir()
    (folder / "results.jsonl").write_text("".join(f"{line}\n" for line in lines))
    predicted = Prediction("wind 12 mph", "Breezy.", "A breezy day.", {}, last)
    (folder / "predictions.jsonl").write_bytes(encode_predictions([predicted]))
    params = {"training.learning_rate": rate, "lora.r": rank, "lora.alpha": ratio * rank}
    attributes = {
        "ray_trial_id": trial_id,
        "wandb_run_id": trial_id,
        "params": params,
        "attempts": 1,
        "started": began,
        "steps": last,
    }
    if state.is_terminal:
        attributes |= {"trial_state": state.value, "ended": began + last / 5}
    if state is TrialState.DIVERGED:
        attributes["reason"] = "the loss is not finite at step 100"
    stored = {
        TrialState.COMPLETED: OptunaState.COMPLETE,
        TrialState.PRUNED: OptunaState.PRUNED,
        TrialState.DIVERGED: OptunaState.FAIL,
        TrialState.RUNNING: OptunaState.RUNNING,
    }[state]
    return create_trial(
        state=stored,
        value=values[last] if state is TrialState.COMPLETED else None,
        params={"training.learning_rate": rate, "log2(lora.r)": exponent, "lora.alpha/lora.r": ratio},
        distributions={
            "training.learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
            "log2(lora.r)": IntDistribution(1, 6),
            "lora.alpha/lora.r": FloatDistribution(0.5, 4.0, log=True),
        },
        user_attrs=attributes,
        intermediate_values=values,
    )
