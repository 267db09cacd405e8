"""Trials as runs of one group, with the real client online: what arrives, and what a bad server costs."""

import json
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import wandb

from tests.support.wandb_search import CONFIG, Make, at_most, report, rows
from tests.support.wandb_server import WandbServer
from tests.tune.callbacks.test_wandb import METRIC, play, trial
from trainable import records
from trainable.records import Outcome, TrialState
from trainable.suggestion import Suggestion
from trainable.tracking.local import offline_files, steps_in
from trainable.tracking.rows import without_excluded

pytestmark = pytest.mark.usefixtures("impatient")


def test_every_trial_arrives_as_a_run_of_the_group(
    wandb_server: WandbServer, make: Make, tmp_path: Path, said: list[str]
) -> None:
    callback = make()
    trials = [trial(number, rank) for number, rank in enumerate([8, 16, 32, 64])]
    play(callback, trials[0], [3.0, 2.0], tmp_path, trial_state="completed")
    play(callback, trials[1], [4.0], tmp_path)
    play(callback, trials[2], [1.0, 9.0], tmp_path, trial_state="diverged", reason="loss is nan")
    play(callback, trials[3], [5.0], tmp_path, trial_state="failed", reason="the disk is full")
    callback.on_experiment_end([])
    runs = wandb_server.runs
    assert list(runs) == ["id0", "id1", "id2", "id3"]
    assert {run.group for run in runs.values()} == {"search"}
    assert {run.job_type for run in runs.values()} == {"trial"}
    assert {run.notes for run in runs.values()} == {"words"}
    assert runs["id0"].name == "trial-0000-r8-a32-lr1.0e-3"
    tags = ["mine", "tpe", "search", "asha", "x" * 64, "r=8", "alpha=32", "completed"]
    assert runs["id0"].tags == tags
    for one in trials:
        searched = {"experiment": "search", "number": one.config["number"], "attempt": 1}
        searched |= {"parameters": ["lora.r"]}
        config = without_excluded(one.config["trial"], CONFIG) | {"searched": searched}
        del config["wandb"]
        assert runs[one.trial_id].config == config
    assert [run.history for run in runs.values()] == [
        rows([3.0, 2.0]),
        rows([4.0]),
        rows([1.0, 9.0]),
        rows([5.0]),
    ]
    assert [run.summary["trial_state"] for run in runs.values()] == [
        "completed",
        "pruned",
        "diverged",
        "failed",
    ]
    assert runs["id2"].summary["reason"] == "loss is nan"
    assert runs["id1"].summary["reason"] == "stopped by the scheduler at step 1"
    assert [run.exit_code for run in runs.values()] == [0, 0, 1, 1]
    assert said == []
    assert wandb_server.unknown == []


def test_a_trial_that_never_reported_does_not_read_finished(wandb_server: WandbServer, make: Make) -> None:
    callback = make()
    one = trial(0, 8)
    callback.log_trial_start(one)
    callback.log_trial_end(one, failed=True)
    callback.on_experiment_end([])
    run = wandb_server.runs["id0"]
    assert (run.exit_code, run.summary["trial_state"], run.history) == (1, "failed", [])


@pytest.mark.parametrize(("mode", "best"), [("min", ["id0", "id2"]), ("max", ["id0", "id1"])])
def test_best_is_the_best(
    wandb_server: WandbServer, make: Make, tmp_path: Path, mode: str, best: list[str]
) -> None:
    callback = make(mode=mode)
    for number, loss in enumerate([3.0, 4.0, 1.0, 2.0]):
        play(callback, trial(number, 2**number), [loss], tmp_path, trial_state="completed")
    callback.on_experiment_end([])
    versions = wandb_server.artifacts
    assert [one.logged_by for one in versions] == best
    assert {(one.name, one.type) for one in versions} == {("search-adapter", "model")}
    assert [one.aliases for one in versions] == [[], ["best", "final", "latest"]]
    assert versions[-1].files == {"adapter_config.json": f"{best[-1]} 1".encode()}
    number = int(best[-1][2:])
    assert versions[-1].metadata == {
        "step": 1,
        "state": "completed",
        "metrics": {METRIC: [3.0, 4.0, 1.0, 2.0][number]},
        "params": {"lora.r": 2**number},
        "trial": number,
        "base_model": trial(0, 8).config["trial"]["model"]["name"],
        "data_hash": "d" * 64,
        "rank": 2**number,
        "alpha": 32,
    }


def test_every_run_uses_one_version_of_the_data(
    wandb_server: WandbServer, make: Make, tmp_path: Path, corpus: Path
) -> None:
    data = {name: corpus / f"{name}.json" for name in ("train", "val", "test")}
    callback, versions = make(data_hash="d" * 64), wandb_server.artifacts
    for number in range(2):
        play(callback, trial(number, 8, data=data), [1.0], tmp_path, trial_state="pruned")
        wandb_server.wait_until(lambda: any(one.type == "dataset" and one.committed for one in versions))
    callback.on_experiment_end([])
    (version,) = [one for one in versions if one.type == "dataset"]
    assert (version.name, version.aliases) == ("data-project", ["latest"])
    assert sorted(version.used_by) == ["id0", "id1"]
    manifest = json.loads(version.files["manifest.json"])
    assert manifest["train"]["bytes"] == (corpus / "train.json").stat().st_size
    assert manifest["data_hash"] == "d" * 64


def test_histograms_and_predictions_arrive(wandb_server: WandbServer, make: Make) -> None:
    callback, one = make(), trial(0, 8)
    callback.log_trial_start(one)
    histogram = {"counts": [1, 2, 3], "low": -1.0, "high": 2.0}
    shown = {"prompt": "p", "prediction": "a", "reference": "b", "scores": {"nlg/bleu_score": 0.5}}
    bulky = {
        records.HISTOGRAMS: [{"step": 4, "gradients": {"q_proj.lora_A": histogram}}],
        records.PREDICTIONS: [shown],
    }
    callback.log_trial_result(1, one, {"step": 5, METRIC: 1.0} | bulky)
    callback.log_trial_end(one)
    callback.on_experiment_end([])
    run = wandb_server.runs["id0"]
    told = {"_type": "histogram", "values": [1, 2, 3], "bins": [-1, 0, 1, 2]}
    assert run.history[0] == {"step": 4, "gradients/q_proj.lora_A": told}
    (table,) = [content for name, content in run.files.items() if name.endswith(".table.json")]
    assert json.loads(table)["data"] == [["p", "a", "b", 0.5]]


def test_a_resumed_search_knows_what_was_best(wandb_server: WandbServer, make: Make, tmp_path: Path) -> None:
    callback = make()
    play(callback, trial(0, 8), [1.0], tmp_path, trial_state="completed")
    callback.on_experiment_end([])
    callback = make(earlier={"id0": rows([1.0])})
    play(callback, trial(1, 8), [2.0], tmp_path, trial_state="completed")
    callback.on_experiment_end([])
    (version,) = wandb_server.artifacts
    assert (version.logged_by, version.aliases) == ("id0", ["best", "final", "latest"])


def test_a_resumed_trial_continues_its_run_with_what_the_server_lacks(
    wandb_server: WandbServer, make: Make, said: list[str]
) -> None:
    callback, one = make(), trial(0, 8)
    callback.log_trial_start(one)
    report(callback, one, rows([5.0, 4.0]))
    callback.on_experiment_end([])
    wandb.teardown()  # What the end of a process does.
    run = wandb_server.runs["id0"]
    assert (run.history, run.exit_code, run.summary["trial_state"]) == (rows([5.0, 4.0]), 1, "pending")
    # The trial's log has a record more than the process could send.
    callback = make(earlier={"id0": rows([5.0, 4.0, 3.0])})
    callback.log_trial_start(one)
    report(callback, one, rows([2.0, 1.0], first=4))
    one.last_result |= {"trial_state": "completed"}
    callback.log_trial_end(one)
    callback.on_experiment_end([])
    assert run.history == rows([5.0, 4.0, 3.0, 2.0, 1.0])
    assert (run.exit_code, run.summary["trial_state"]) == (0, "completed")
    assert (run.summary.get("reason"), run.summary["best/step"]) == (None, 5)
    assert "pending" not in run.tags
    assert said == []


def test_settling_completes_what_the_server_lacks_and_nothing_else(
    wandb_server: WandbServer, make: Make, tmp_path: Path, said: list[str]
) -> None:
    whole, lost = trial(0, 8), trial(1, 16)
    callback = make()
    play(callback, whole, [3.0, 2.0], tmp_path, trial_state="completed")
    callback.on_experiment_end([])
    wandb.teardown()
    asked = len(wandb_server.asked)
    callback = make(earlier={"id0": rows([3.0, 2.0]), "id1": rows([9.0, 8.0])})
    callback.settle("id0", Suggestion.from_ray(whole.config), Outcome(TrialState.COMPLETED))
    outcome = Outcome(TrialState.DIVERGED, "loss is nan")
    callback.settle("id1", Suggestion.from_ray(lost.config), outcome)
    callback.on_experiment_end([])
    assert [run.history for run in wandb_server.runs.values()] == [rows([3.0, 2.0]), rows([9.0, 8.0])]
    run = wandb_server.runs["id1"]
    assert (run.exit_code, run.summary["reason"], run.tags[-1]) == (1, "loss is nan", "diverged")
    assert not [request for request in wandb_server.asked[asked:] if "id0" in request]
    assert said == []


def test_a_search_that_began_without_a_server_goes_on_with_one(
    wandb_server: WandbServer, make: Make, said: list[str], tmp_path: Path
) -> None:
    wandb_server.refuse_key()
    callback, trials = make(), [trial(number, 8) for number in range(2)]
    for one in trials:
        callback.log_trial_start(one)
        report(callback, one, rows([4.0, 3.0]))
    callback.on_experiment_end([])
    assert len(said) == 2
    wandb.teardown()
    wandb_server.heal()
    callback = make(earlier={one.trial_id: rows([4.0, 3.0]) for one in trials})
    for one in trials:
        assert [list(steps_in(path)) for path in offline_files(tmp_path, one.trial_id)] == [[1, 2]]
        callback.log_trial_start(one)
        report(callback, one, rows([2.0], first=3))
        one.last_result |= {"trial_state": "completed"}
        callback.log_trial_end(one)
    callback.on_experiment_end([])
    assert wandb_server.runs.keys() == {"id0", "id1"}
    assert [run.history for run in wandb_server.runs.values()] == [rows([4.0, 3.0, 2.0])] * 2
    assert [run.exit_code for run in wandb_server.runs.values()] == [0, 0]
    assert len(list((tmp_path / "wandb").glob("offline-run-*/*.synced"))) == 2
    assert len(said) == 2


def test_a_record_that_a_restored_trial_makes_again_arrives_once(
    wandb_server: WandbServer, make: Make
) -> None:
    callback, one = make(), trial(0, 8)
    callback.log_trial_start(one)
    report(callback, one, rows([4.0, 3.0, 2.0]))
    callback.log_trial_start(one)
    report(callback, one, rows([3.0, 2.0, 1.0], first=2))
    callback.log_trial_end(one)
    callback.on_experiment_end([])
    assert wandb_server.runs["id0"].history == rows([4.0, 3.0, 2.0, 1.0])


@pytest.mark.parametrize("trouble", ["fail", "hang", "stop"])
def test_a_trouble_in_mid_search_that_ends_costs_nothing(
    wandb_server: WandbServer, make: Make, said: list[str], trouble: str
) -> None:
    callback, one, two = make(), trial(0, 8), trial(1, 8)
    callback.log_trial_start(one)
    callback.log_trial_start(two)
    report(callback, one, rows([4.0]))
    wandb_server.wait_until(lambda: wandb_server.runs.keys() == {"id0", "id1"})
    getattr(wandb_server, trouble)()
    with at_most(0.5):
        report(callback, one, rows([3.0, 2.0], first=2))
        report(callback, two, rows([3.0, 2.0, 1.0]))
    if trouble != "stop":
        wandb_server.wait_until(lambda: wandb_server.refused > 0)
    wandb_server.heal()
    with at_most(0.5):
        callback.log_trial_end(one)
        callback.log_trial_end(two)
    callback.on_experiment_end([])
    assert wandb_server.runs["id0"].history == rows([4.0, 3.0, 2.0])
    assert wandb_server.runs["id1"].history == rows([3.0, 2.0, 1.0])
    assert [run.exit_code for run in wandb_server.runs.values()] == [0, 0]
    assert said == []


@pytest.mark.parametrize("trouble", ["hang", pytest.param("stop", marks=pytest.mark.slow)])
def test_a_trouble_that_stays_holds_nothing_up_and_is_said_once(
    wandb_server: WandbServer, make: Make, said: list[str], tmp_path: Path, trouble: str
) -> None:
    callback = make(drain_timeout_s=4)
    trials = [trial(number, 8) for number in range(3)]
    for one in trials:
        callback.log_trial_start(one)
    wandb_server.wait_until(lambda: len(wandb_server.runs) == 3)
    getattr(wandb_server, trouble)()
    with at_most(0.5):
        for one in trials:
            play(callback, one, [2.0, 1.0], tmp_path, trial_state="completed")
    with at_most(6):
        callback.on_experiment_end([])
    (missing,) = [line for line in said if "wandb sync" in line]
    assert "of 3 run(s) after " in missing
    # The time that was waited, not the time that was allowed.
    assert 3.5 < float(missing.partition(" after ")[2].partition(" s")[0]) < 6
    wandb_server.heal()
    for ending in [thread for thread in threading.enumerate() if thread.name == "wandb-finish"]:
        ending.join(30)
    command = shlex.split(missing.partition("on this disk: ")[2])
    subprocess.run([sys.executable, "-m", *command], capture_output=True, check=True, timeout=60)
    # `wandb sync` sends a run that began online from its first row, under the steps that the rows had.
    arrived = [{row["step"]: row for row in run.history} for run in wandb_server.runs.values()]
    assert arrived == [{row["step"]: row for row in rows([2.0, 1.0])}] * 3


@pytest.mark.parametrize("trouble", ["fail", "refuse_key"])
def test_a_server_that_lets_no_run_begin_is_said_once_not_once_a_trial(
    wandb_server: WandbServer, make: Make, said: list[str], tmp_path: Path, trouble: str
) -> None:
    getattr(wandb_server, trouble)()
    callback = make(drain_timeout_s=30)
    with at_most(0.5):
        for number in range(4):
            play(callback, trial(number, 8), [2.0, 1.0], tmp_path, trial_state="completed")
    # One trial may wait for the server to answer; the others know that it does not.
    with at_most(6):
        callback.on_experiment_end([])
    unreachable, missing = said
    assert unreachable.startswith("W&B cannot be reached (")
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 4
    assert missing.endswith("wandb sync " + " ".join(map(str, folders)))
