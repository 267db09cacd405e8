"""Tags that move among the runs of a group, names that people edit, and whose system metrics a run has."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import wandb

from tests.support.wandb_records import EVENTS
from tests.support.wandb_search import Make, report, rows
from tests.support.wandb_server import WandbServer
from tests.tune.callbacks.test_wandb import METRIC, play, trial
from trainable import records
from trainable.records import MetricsRecord
from trainable.tracking.local import sync_command

pytestmark = pytest.mark.usefixtures("impatient")


def tagged(server: WandbServer) -> list[str]:
    return [run.run_id for run in server.runs.values() if "best" in run.tags]


def test_the_tag_best_moves_to_the_best_run_and_again_on_resume(
    wandb_server: WandbServer, make: Make, tmp_path: Path, said: list[str]
) -> None:
    callback = make()
    play(callback, trial(0, 8), [3.0], tmp_path, trial_state="completed")
    play(callback, trial(1, 8), [2.0], tmp_path, trial_state="completed")
    callback.on_experiment_end([])
    assert tagged(wandb_server) == ["id1"]
    wandb_server.runs["id0"].tags.append("keep")
    summary, config = dict(wandb_server.runs["id1"].summary), wandb_server.runs["id1"].config
    wandb.teardown()
    callback = make(earlier={"id0": rows([3.0]), "id1": rows([2.0])})
    play(callback, trial(2, 8), [1.0], tmp_path, trial_state="completed")
    callback.on_experiment_end([])
    assert tagged(wandb_server) == ["id2"]
    assert wandb_server.runs["id0"].tags[-2:] == ["completed", "keep"]
    run = wandb_server.runs["id1"]
    assert (run.name, run.notes, run.group) == ("trial-0001-r8-a32-lr1.0e-3", "words", "search")
    assert (run.summary, run.config, run.history) == (summary, config, rows([2.0]))
    assert wandb_server.unknown == []
    assert said == []


def test_a_continued_trial_has_the_tag_only_once_it_has_ended(
    wandb_server: WandbServer, make: Make, tmp_path: Path
) -> None:
    callback, one = make(), trial(0, 8)
    callback.log_trial_start(one)
    report(callback, one, rows([1.0]))
    callback.on_experiment_end([])
    assert tagged(wandb_server) == ["id0"]
    wandb.teardown()
    callback = make(earlier={"id0": rows([1.0])})
    callback.log_trial_start(one)
    report(callback, one, rows([5.0], first=2))
    one.last_result |= {"trial_state": "completed"}
    callback.log_trial_end(one)
    callback.on_experiment_end([])
    assert tagged(wandb_server) == ["id0"]
    assert sorted(wandb_server.runs["id0"].tags[-2:]) == ["best", "completed"]


def test_what_a_person_edited_stays_when_a_run_is_continued_offline(
    wandb_server: WandbServer, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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


def test_a_trials_run_has_what_its_engine_measured_and_only_the_searchs_own_run_the_drivers(
    wandb_server: WandbServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_X_STATS_SAMPLING_INTERVAL", "0.1")
    callback, one = make(section={"log_system_metrics": True}, summarize=True), trial(0, 8)
    callback.log_trial_start(one)
    row = {"step": 1, METRIC: 2.0, records.DEVICE_CPU: 150.0, records.DEVICE_SHARE: 0.25}
    report(callback, one, [MetricsRecord(row)])
    wandb_server.wait_until(lambda: any(EVENTS in run.streams for run in wandb_server.runs.values()))
    callback.log_trial_end(one)
    callback.on_experiment_end([])
    run = wandb_server.runs["id0"]
    assert run.history == [row]
    assert [one.job_type for one in wandb_server.runs.values() if EVENTS in one.streams] == ["search"]
