"""What a person edited in W&B stays, also where a run is continued without the server."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import wandb

from tests.support.wandb_search import Make, report, rows
from tests.support.wandb_server import WandbServer
from tests.tune.callbacks.test_wandb import trial
from trainable.tracking.local import sync_command

pytestmark = pytest.mark.usefixtures("impatient")


def test_what_a_person_edited_stays_when_a_run_is_continued_offline(
    wandb_server: WandbServer, make: Make, tmp_path: Path
) -> None:
    callback, one = make(), trial(0, 8)
    callback.log_trial_start(one)
    report(callback, one, rows([5.0]))
    callback.on_experiment_end([])
    wandb.teardown()
    run = wandb_server.runs["id0"]
    run.name, run.notes, run.tags = "my favorite", "looks odd", ["keep"]
    callback = make(earlier={"id0": rows([5.0])}, section={"mode": "offline"})
    callback.log_trial_start(one)
    report(callback, one, rows([4.0], first=2))
    one.last_result |= {"trial_state": "completed"}
    callback.log_trial_end(one)
    callback.on_experiment_end([])
    wandb.teardown()
    command = sync_command(tmp_path).replace("wandb sync", f"{shlex.quote(sys.executable)} -m wandb sync")
    subprocess.run(command, shell=True, capture_output=True, check=True, timeout=60)
    assert run.summary["trial_state"] == "completed"
    assert (run.name, run.notes, run.tags) == ("my favorite", "looks odd", ["keep"])
    assert run.group == "search"
