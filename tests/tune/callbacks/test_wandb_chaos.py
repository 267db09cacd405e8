"""Random faults of single requests: what W&B has in the end is what the trials logged."""

import random
import shutil
import time
from pathlib import Path

import pytest
import wandb

from tests.support.wandb_chaos import Chaos
from tests.support.wandb_search import Make
from tests.support.wandb_server import WandbServer
from tests.tune.callbacks.test_wandb import METRIC, FakeTrial, save, trial
from tests.tune.callbacks.test_wandb_faults import SHOWN, plain_rows, settled, waiting_files
from trainable import records
from trainable.records import MetricsRecord, Outcome, TrialState
from trainable.suggestion import Suggestion
from trainable.tracking.local import continued_id
from tune.callbacks.wandb import WandbLoggerCallback

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("impatient")]

STEPS = 4
ENDS = (TrialState.COMPLETED, TrialState.PRUNED, TrialState.DIVERGED, TrialState.FAILED)


class Script:
    """A search whose trials report, save and end at moments drawn from a seed."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = random.Random(seed)
        self.trials = [trial(number, 8) for number in range(4)]
        self.ends = {one.trial_id: self.random.choice(ENDS) for one in self.trials}
        self.logs: dict[str, list[MetricsRecord]] = {one.trial_id: [] for one in self.trials}
        self._folder = folder

    def reach(self, callback: WandbLoggerCallback, steps: int) -> None:
        """Let every trial report up to this step; one that has taken all of them ends."""
        for one in self.trials:
            callback.log_trial_start(one)
        for step in range(max(map(len, self.logs.values())) + 1, steps + 1):
            for one in self.random.sample(self.trials, len(self.trials)):
                time.sleep(self.random.uniform(0.0, 0.3))
                self._report(callback, one, step)

    def _report(self, callback: WandbLoggerCallback, one: FakeTrial, step: int) -> None:
        state = self.ends[one.trial_id] if step == STEPS else TrialState.RUNNING
        record = MetricsRecord({"step": step, METRIC: round(self.random.random(), 6)})
        self.logs[one.trial_id].append(record)
        one.last_result = {**record, "trial_state": state.value}
        if self.random.random() < 0.3:
            one.last_result[records.PREDICTIONS] = [SHOWN]
        callback.log_trial_result(step, one, one.last_result)
        checkpoint = save(one, {**record, "trial_state": state.value}, self._folder)
        callback.on_checkpoint(step, [], one, checkpoint)
        shutil.rmtree(checkpoint.path)
        if step == STEPS:
            callback.log_trial_end(one)

    def settle(self, callback: WandbLoggerCallback) -> None:
        """Complete the runs of the trials, all of which have ended."""
        for one in self.trials:
            outcome = Outcome(self.ends[one.trial_id])
            callback.settle(one.trial_id, Suggestion.from_ray(one.config), outcome)

    def problems(self, server: WandbServer) -> list[str]:
        """Return how what the server has differs from what the trials logged."""
        found = []
        for trial_id, log in self.logs.items():
            # A start that failed may have cost the run its id.
            run = server.runs.get(continued_id(self._folder, trial_id))
            if run is None:
                found.append(f"{trial_id}: no run")
                continue
            rows = sorted(plain_rows(run.history), key=lambda row: row["step"])
            if rows != log:
                found.append(f"{trial_id}: rows {rows}, logged {log}")
            end = self.ends[trial_id]
            if run.summary.get("trial_state") != end.value or end.value not in run.tags:
                found.append(f"{trial_id}: {run.summary.get('trial_state')} {run.tags}, ended {end.value}")
            if (run.exit_code == 0) != (end in (TrialState.COMPLETED, TrialState.PRUNED)):
                found.append(f"{trial_id}: exit code {run.exit_code}, ended {end.value}")
        best = min(record[METRIC] for log in self.logs.values() for record in log)
        versions = [one for one in server.artifacts if "best" in one.aliases and one.type == "model"]
        shown = [(one.committed, one.metadata["metrics"][METRIC]) for one in versions]
        if shown != [(True, best)]:
            found.append(f"`best` is on {shown}, the best is {best}")
        return found


@pytest.mark.parametrize("seed", range(12))
def test_random_faults_lose_nothing(
    wandb_server: WandbServer, make: Make, tmp_path: Path, said: list[str], seed: int
) -> None:
    chaos, script = Chaos(seed, share=0.2), Script(seed, tmp_path)
    section = {"log_model": "checkpoint"}
    wandb_server.disturb(chaos)
    callback = make(log_of=script.logs.__getitem__, section=section, drain_timeout_s=20)
    script.reach(callback, STEPS)
    callback.on_experiment_end([])
    # Either W&B has everything, or the end of the search names what it does not have.
    assert said or script.problems(wandb_server) == []
    wandb_server.heal()
    wandb.teardown()
    callback = make(earlier=script.logs, log_of=script.logs.__getitem__, section=section)
    script.settle(callback)
    callback.on_experiment_end([])
    assert script.problems(wandb_server) == [], said
    assert settled(tmp_path) == sorted(script.logs)
    assert [path for path in waiting_files(tmp_path) if path.name == "adapter_config.json"] == []
    assert wandb_server.unknown == []
