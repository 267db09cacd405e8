"""A search eight wide is the search that tries one trial at a time: the same losses, the same survivors."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import flags, loratune, trials_of
from trainable.objective import Objective
from trainable.records import JUDGED
from tune.search.schedulers import NoController, PastTrial, TrialScheduler, make_scheduler
from tune.sections import SearchConfig

pytestmark = pytest.mark.ray
STEPS = 8


def search(name: str, scheduler: str, slots: int, *where: Path) -> dict[int, dict[str, Any]]:
    """Run eight trials; return them by number, each with its log."""
    micro_base, corpus, folder = where
    more = [*("--trials", "8", "--search.sampler", "random", "--wandb.mode", "disabled")]
    more += ["--search.scheduler", scheduler, "--engine.slots_per_device", str(slots)]
    more += ["--evaluation.text_metrics", "never", "--search.reduction_factor", "2"]
    done = loratune(*flags(micro_base, corpus, folder, name), *more, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    trials = {trial["number"]: trial for trial in trials_of(folder, name)}
    for trial in trials.values():
        lines = (folder / name / trial["trial_id"] / "results.jsonl").read_text().splitlines()
        trial["log"] = [json.loads(line) for line in lines]
    return trials


def test_eight_wide_equals_one_at_a_time(micro_base: Path, corpus: Path, tmp_path: Path) -> None:
    packed = search("packed", "asha", 8, micro_base, corpus, tmp_path)
    alone = search("alone", "none", 1, micro_base, corpus, tmp_path)
    assert {trial["state"] for trial in packed.values()} == {"completed", "pruned"}
    assert max(record["fused_width"] for trial in packed.values() for record in trial["log"]) > 2
    losses: dict[tuple[int, int], float] = {}
    for number, trial in alone.items():
        assert packed[number]["params"] == trial["params"]
        losses |= {(number, record["step"]): record["eval/loss"] for record in trial["log"]}
        for record in packed[number]["log"]:
            assert record["eval/loss"] == pytest.approx(losses[number, record["step"]], rel=1e-4)
    # ASHA decides on who has come to a rung before: in the pack's order, on the lone trials' losses.
    arrivals = sorted(
        (record["time"], number, record["step"])
        for number, trial in packed.items()
        for record in trial["log"]
    )
    scheduler = make_scheduler(SearchConfig(reduction_factor=2), Objective("eval/loss", "min"), STEPS)
    stopped = set()
    for _, number, step in arrivals:
        trial = PastTrial(str(number))
        if step == 2:
            scheduler.on_trial_add(NoController(), trial)
        loss = losses[number, step]
        record = {"step": step, "time_total_s": step, "eval/loss": loss, JUDGED: loss}
        if scheduler.on_trial_result(NoController(), trial, record) == TrialScheduler.STOP and step < STEPS:
            stopped.add(number)
    assert stopped == {number for number, trial in packed.items() if trial["state"] == "pruned"}
