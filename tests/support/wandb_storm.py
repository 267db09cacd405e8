"""A search as far as W&B sees it, in a process of its own that can be killed at any moment.

    python -m tests.support.wandb_storm FOLDER

The trials, their losses and their ends are fixed. As in a real search each record is in the trial's result
log before W&B gets it, and what an earlier process has logged is completed from there. Run again until it
exits with 0, it has played all trials.
"""

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.wandb_search import CONFIG
from tests.tune.callbacks.test_wandb import METRIC, FakeTrial, group_of, save, trial
from trainable import records
from trainable.objective import Objective
from trainable.records import MetricsRecord, Outcome, TrialState
from trainable.suggestion import Suggestion
from trainable.tracking import completion, run, server
from trainable.tracking.trials import PastTrial
from tune.callbacks.wandb import WandbLoggerCallback
from tune.store.experiment import ExperimentStore

TRIALS, RECORDS, AT_ONCE = 6, 4, 3
ENDS = (TrialState.COMPLETED, TrialState.PRUNED, TrialState.DIVERGED)
SHOWN = {"prompt": "p", "prediction": "a", "reference": "b", "scores": {"nlg/bleu_score": 0.5}}


def losses_of(number: int) -> list[float]:
    """Return the losses that a trial reports."""
    drawn = random.Random(number)
    return [round(drawn.uniform(1, 5), 6) for _ in range(RECORDS)]


def end_of(number: int) -> TrialState:
    """Return how a trial ends."""
    return ENDS[number % len(ENDS)]


def log_of(folder: Path, trial_id: str) -> list[MetricsRecord]:
    """Return a trial's result log."""
    path = folder / trial_id / "results.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [MetricsRecord(json.loads(line)) for line in lines]


class Storm:
    """Plays what is left of the trials."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._trials = [trial(number, 8 << number % 3) for number in range(TRIALS)]
        logs = {one.trial_id: log_of(folder, one.trial_id) for one in self._trials}
        earlier = {trial_id: log for trial_id, log in logs.items() if log}
        group = group_of(
            folder,
            "search",
            earlier=earlier,
            log_of=lambda trial_id: log_of(folder, trial_id),
            summarize=True,
            past=[_past(one, earlier[one.trial_id]) for one in self._trials if one.trial_id in earlier],
            settled_marker=ExperimentStore(folder).settled_marker,
        )
        config = CONFIG.model_copy(update={"log_model": "checkpoint", "keep_versions": 4})
        self._callback = WandbLoggerCallback(
            config, group, folder / ".wandb-held", say=_say, drain_timeout_s=40.0
        )

    def play(self) -> None:
        """Let the trials run, some at once, each from where its log ends."""
        waiting = list(self._trials)
        for one in [one for one in waiting if self._state(one).is_terminal]:
            outcome = Outcome(self._state(one), "loss is nan" if self._state(one) == "diverged" else None)
            self._callback.settle(one.trial_id, Suggestion.from_ray(one.config), outcome)
            waiting.remove(one)
        self._callback.settle_search()
        running: list[FakeTrial] = []
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                running.append(waiting.pop(0))
                self._callback.log_trial_start(running[-1])
            for one in list(running):
                self._step(one)
                if self._state(one).is_terminal:
                    self._callback.log_trial_end(one)
                    running.remove(one)
                time.sleep(0.1)
        self._callback.on_experiment_end([])

    def _step(self, one: FakeTrial) -> None:
        number, log = one.config["number"], log_of(self._folder, one.trial_id)
        step = len(log) + 1
        record: dict[str, Any] = {
            "step": step,
            METRIC: losses_of(number)[step - 1],
            "trial_state": "running" if step < RECORDS else end_of(number).value,
        }
        if record["trial_state"] == "diverged":
            record["reason"] = "loss is nan"
        path = self._folder / one.trial_id / "results.jsonl"
        path.parent.mkdir(exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        one.last_result = record | {records.PREDICTIONS: [SHOWN]}
        self._callback.log_trial_result(step, one, one.last_result)
        saved = self._folder / one.trial_id / f"checkpoint_{step:06d}"
        if not saved.exists():
            self._callback.on_checkpoint(step, [], one, save(one, record, self._folder))  # type: ignore[arg-type]

    def _state(self, one: FakeTrial) -> TrialState:
        log = log_of(self._folder, one.trial_id)
        return log[-1].state if log else TrialState.PENDING


def _past(one: FakeTrial, log: list[MetricsRecord]) -> PastTrial:
    objective = Objective(METRIC, "min")
    best = objective.best(log)
    assert best is not None
    number, params = one.config["number"], one.config["params"]
    return PastTrial(one.trial_id, number, log[-1].state, params, best[METRIC], best.step, len(log), 1.0)


def _say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    """Play, impatiently."""
    run.INIT_TIMEOUT_S, run.FINISH_TIMEOUT_S, server.ASK_TIMEOUT_S = 4, 8, 4
    completion.RETRY_S = 2.0
    Storm(Path(sys.argv[1])).play()


if __name__ == "__main__":
    main()
