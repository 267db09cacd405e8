"""What a search loses in W&B by faults of the server, of the process, and by people who edit: nothing."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.sdk.lib import run_stopping

from tests.support.wandb_records import HISTORY
from tests.support.wandb_search import Make, report, rows
from tests.support.wandb_server import WandbServer
from tests.tune.callbacks.test_wandb import METRIC, play, save, trial
from trainable import records
from trainable.records import MetricsRecord, Outcome, TrialState
from trainable.suggestion import Suggestion
from trainable.tracking.server import logged_steps
from trainable.tracking.trials import PastTrial

pytestmark = pytest.mark.usefixtures("impatient")

SHOWN = {"prompt": "p", "prediction": "a", "reference": "b", "scores": {"nlg/bleu_score": 0.5}}


def plain_rows(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows that hold plain values."""
    return [row for row in history if logged_steps([row])]


def waiting_files(folder: Path) -> list[Path]:
    """Return what is left of artifacts on this disk: waiting, staged or cached."""
    places = [
        *folder.glob("wandb/*run-*/artifacts"),
        folder / "client" / "data",
        folder / "client" / "cache" / "wandb" / "artifacts",
        folder / ".wandb-held",
    ]
    return [path for place in places for path in place.rglob("*") if path.is_file()]


def settled(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.glob("*/wandb-settled"))


def test_a_row_with_predictions_is_not_lost_in_an_outage(
    wandb_server: WandbServer, make: Make, said: list[str], tmp_path: Path
) -> None:
    callback, one = make(), trial(0, 8)
    callback.log_trial_start(one)
    report(callback, one, rows([3.0]))
    wandb_server.wait_until(lambda: "id0" in wandb_server.runs and len(wandb_server.runs["id0"].history) == 1)
    wandb_server.fail()
    report(callback, one, [MetricsRecord({"step": 2, METRIC: 2.0, records.PREDICTIONS: [SHOWN]})])
    report(callback, one, rows([1.0], first=3))
    wandb_server.wait_until(lambda: wandb_server.refused > 0)
    wandb_server.heal()
    callback.log_trial_end(one)
    callback.on_experiment_end([])
    run = wandb_server.runs["id0"]
    assert plain_rows(run.history) == rows([3.0, 2.0, 1.0])
    (table,) = [content for name, content in run.files.items() if name.endswith(".table.json")]
    assert json.loads(table)["data"] == [["p", "a", "b", 0.5]]
    assert settled(tmp_path) == ["id0"]
    assert said == []


def test_rows_that_the_server_refuses_for_good_are_logged_again_from_the_trials_own_log(
    wandb_server: WandbServer, make: Make, said: list[str], tmp_path: Path
) -> None:
    logs = {"id0": rows([3.0, 2.0, 1.0]), "id1": rows([5.0])}
    callback, trials = make(log_of=logs.__getitem__), [trial(0, 8), trial(1, 8)]
    for one in trials:
        callback.log_trial_start(one)
    wandb_server.wait_until(lambda: wandb_server.runs.keys() == {"id0", "id1"})
    wandb_server.fail(404, where="id0/file_stream", times=1)
    for one in trials:
        report(callback, one, logs[one.trial_id])
    wandb_server.wait_until(lambda: wandb_server.refused == 1)
    for one in trials:
        one.last_result |= {"trial_state": "completed"}
        callback.log_trial_end(one)
    callback.on_experiment_end([])
    assert {run_id: run.history for run_id, run in wandb_server.runs.items()} == logs
    assert [run.summary["trial_state"] for run in wandb_server.runs.values()] == ["completed"] * 2
    assert [run.exit_code for run in wandb_server.runs.values()] == [0, 0]
    assert settled(tmp_path) == ["id0", "id1"]
    assert said == []


def test_trials_that_end_in_an_outage_are_completed_when_the_server_is_back(
    wandb_server: WandbServer, make: Make, said: list[str], tmp_path: Path
) -> None:
    log = rows([3.0, 2.0, 1.0])
    callback, one, two = make(log_of=lambda _: log), trial(0, 8), trial(1, 8)
    callback.log_trial_start(one)
    callback.log_trial_start(two)
    wandb_server.wait_until(lambda: len(wandb_server.runs) == 2)
    wandb_server.hang()
    report(callback, one, log)
    one.last_result |= {"trial_state": "completed"}
    callback.log_trial_end(one)
    time.sleep(5)  # Longer than ending a run may take here.
    wandb_server.heal()
    time.sleep(2.1)
    report(callback, two, log)
    two.last_result |= {"trial_state": "completed"}
    callback.log_trial_end(two)
    callback.on_experiment_end([])
    for run in wandb_server.runs.values():
        assert run.history == log
        assert (run.exit_code, run.summary["trial_state"]) == (0, "completed")
        assert "completed" in run.tags
    assert settled(tmp_path) == ["id0", "id1"]
    assert not [line for line in said if "does not have everything" in line]


def test_the_history_is_believed_and_not_the_summary(
    wandb_server: WandbServer, make: Make, said: list[str]
) -> None:
    callback, one, log = make(), trial(0, 8), rows([5.0, 4.0, 3.0, 2.0])
    callback.log_trial_start(one)
    report(callback, one, log)
    callback.on_experiment_end([])
    wandb.teardown()
    # A killed process: the server has the summary of the last row, and no row after the first.
    run = wandb_server.runs["id0"]
    run.streams[HISTORY] = dict(list(run.streams[HISTORY].items())[:1])
    assert run.summary["step"] == 4
    callback = make(earlier={"id0": log})
    callback.log_trial_start(one)
    report(callback, one, rows([1.0], first=5))
    callback.log_trial_end(one)
    callback.on_experiment_end([])
    assert run.history == rows([5.0, 4.0, 3.0, 2.0, 1.0])
    assert said == []


def test_what_a_person_edited_in_wandb_stays(wandb_server: WandbServer, make: Make) -> None:
    callback, one = make(), trial(0, 8)
    callback.log_trial_start(one)
    report(callback, one, rows([5.0]))
    callback.on_experiment_end([])
    wandb.teardown()
    run = wandb_server.runs["id0"]
    run.name, run.notes, run.tags = "my favorite", "looks odd", ["keep", *run.tags[1:]]
    expected = [*(tag for tag in run.tags if tag != "pending"), "completed"]
    callback = make(earlier={"id0": rows([5.0])})
    callback.log_trial_start(one)
    report(callback, one, rows([4.0], first=2))
    one.last_result |= {"trial_state": "completed"}
    callback.log_trial_end(one)
    callback.on_experiment_end([])
    assert (run.name, run.notes, sorted(run.tags)) == ("my favorite", "looks odd", sorted(expected))
    assert run.group == "search"


@pytest.mark.parametrize("where", ["/storage/artifacts", "CommitArtifact"])
def test_best_is_the_best_although_its_upload_failed_once(
    wandb_server: WandbServer, make: Make, tmp_path: Path, said: list[str], where: str
) -> None:
    callback = make()
    play(callback, trial(0, 8), [3.0], tmp_path, trial_state="completed")
    wandb_server.wait_until(lambda: any(one.committed for one in wandb_server.artifacts))
    wandb_server.fail(400, where=where, times=1)
    play(callback, trial(1, 16), [1.0], tmp_path, trial_state="completed")
    wandb_server.wait_until(lambda: wandb_server.refused == 1)
    play(callback, trial(2, 32), [2.0], tmp_path, trial_state="completed")
    callback.on_experiment_end([])
    (best,) = [one for one in wandb_server.artifacts if "best" in one.aliases]
    assert (best.committed, best.files) == (True, {"adapter_config.json": b"id1 1"})
    assert settled(tmp_path) == ["id0", "id1", "id2"]
    assert waiting_files(tmp_path) == []
    assert said == []


def test_the_best_of_a_killed_search_is_sent_and_named_on_resume(
    wandb_server: WandbServer, make: Make, tmp_path: Path
) -> None:
    wandb_server.fail(where="/storage/artifacts")
    callback, one = make(drain_timeout_s=1), trial(0, 8)
    play(callback, one, [1.0], tmp_path, trial_state="completed")
    callback.on_experiment_end([])
    wandb.teardown()
    assert [artifact.committed for artifact in wandb_server.artifacts if artifact.type == "model"] == [False]
    wandb_server.heal()
    callback = make(earlier={"id0": rows([1.0])})
    callback.settle("id0", Suggestion.from_ray(one.config), Outcome(TrialState.COMPLETED))
    callback.on_experiment_end([])
    (best,) = [artifact for artifact in wandb_server.artifacts if artifact.committed]
    assert (best.aliases, best.logged_by) == (["best", "final", "latest"], "id0")
    assert best.files == {"adapter_config.json": b"id0 1"}
    assert wandb_server.runs["id0"].history == rows([1.0])
    assert settled(tmp_path) == ["id0"]
    assert waiting_files(tmp_path) == []


def test_the_tag_best_moves_among_the_runs_with_the_alias(
    wandb_server: WandbServer, make: Make, tmp_path: Path, said: list[str]
) -> None:
    callback = make()
    play(callback, trial(0, 8), [3.0, 2.0], tmp_path, trial_state="completed")
    play(callback, trial(1, 16), [4.0, 1.5], tmp_path, trial_state="completed")
    callback.on_experiment_end([])
    runs = wandb_server.runs
    assert tagged_best(wandb_server) == ["id1"]
    runs["id0"].tags.append("a person's")
    wandb.teardown()
    # Another process, which knows nothing of what the first one has tagged.
    logs = {"id0": rows([3.0, 2.0]), "id1": rows([4.0, 1.5])}
    callback = make(earlier=logs)
    play(callback, trial(2, 32), [1.0], tmp_path, trial_state="completed")
    callback.on_experiment_end([])
    assert tagged_best(wandb_server) == ["id2"]
    assert "a person's" in runs["id0"].tags
    assert {"mine", "completed"} <= set(runs["id1"].tags)
    assert said == []


def test_a_run_that_is_continued_loses_the_tag_to_a_better_one(
    wandb_server: WandbServer, make: Make, tmp_path: Path
) -> None:
    callback = make()
    play(callback, trial(0, 8), [2.0], tmp_path, trial_state="completed")
    callback.on_experiment_end([])
    assert tagged_best(wandb_server) == ["id0"]
    wandb.teardown()
    callback = make(earlier={"id0": rows([2.0])})
    one = trial(0, 8)
    callback.log_trial_start(one)
    play(callback, trial(1, 16), [1.0], tmp_path, trial_state="completed")
    report(callback, one, rows([1.9], first=2))
    one.last_result |= {"trial_state": "completed"}
    callback.log_trial_end(one)
    callback.on_experiment_end([])
    assert tagged_best(wandb_server) == ["id1"]


def tagged_best(server: WandbServer) -> list[str]:
    return [run_id for run_id, run in server.runs.items() if "best" in run.tags]


def test_a_best_that_was_lost_with_its_process_is_logged_when_its_trial_makes_it_again(
    wandb_server: WandbServer, make: Make, tmp_path: Path
) -> None:
    """The log has the record; the process died before it could hold its checkpoint."""
    callback, one = make(), trial(0, 8)
    play(callback, trial(1, 8), [2.0], tmp_path, trial_state="completed")
    callback.on_experiment_end([])
    wandb.teardown()
    callback = make(earlier={"id0": rows([1.0]), "id1": rows([2.0])})
    callback.log_trial_start(one)
    report(callback, one, rows([1.0]))
    callback.on_checkpoint(1, [], one, save(one, {"step": 1, METRIC: 1.0}, tmp_path))
    one.last_result |= {"trial_state": "completed"}
    callback.log_trial_end(one)
    callback.on_experiment_end([])
    (best,) = [artifact for artifact in wandb_server.artifacts if "best" in artifact.aliases]
    assert best.metadata["metrics"] == {METRIC: 1.0}


def test_a_checkpoint_that_was_lost_with_its_process_is_held_again(
    wandb_server: WandbServer, make: Make, tmp_path: Path
) -> None:
    callback, one = make(), trial(0, 8)
    play(callback, trial(1, 8), [2.0], tmp_path, trial_state="completed")
    callback.on_experiment_end([])
    wandb.teardown()
    saved = Path(save(one, {"step": 1, METRIC: 1.0}, tmp_path).path)
    callback = make(earlier={"id0": rows([1.0]), "id1": rows([2.0])})
    callback.hold("id0", saved)
    callback.settle("id0", Suggestion.from_ray(one.config), Outcome(TrialState.COMPLETED))
    callback.on_experiment_end([])
    (best,) = [artifact for artifact in wandb_server.artifacts if "best" in artifact.aliases]
    assert (best.logged_by, best.metadata["metrics"]) == ("id0", {METRIC: 1.0})
    assert waiting_files(tmp_path) == []


def test_a_best_that_was_moved_elsewhere_is_moved_back(
    wandb_server: WandbServer, make: Make, tmp_path: Path
) -> None:
    callback = make(section={"log_model": "checkpoint"})
    play(callback, trial(0, 8), [1.0], tmp_path, trial_state="completed")
    play(callback, trial(1, 8), [2.0], tmp_path, trial_state="completed")
    callback.on_experiment_end([])
    first, second = wandb_server.artifacts
    wandb_server.store.move_alias(second, "best")
    callback = make(earlier={"id0": rows([1.0]), "id1": rows([2.0])}, section={"log_model": "checkpoint"})
    play(callback, trial(2, 8), [3.0], tmp_path, trial_state="pruned")
    callback.on_experiment_end([])
    assert "best" in first.aliases
    assert "best" not in second.aliases


def test_a_search_keeps_its_best_versions_and_what_a_person_marked(
    wandb_server: WandbServer, make: Make, tmp_path: Path
) -> None:
    section = {"log_model": "checkpoint", "keep_versions": 2}
    callback = make(section=section)
    play(callback, trial(0, 8), [9.0, 8.0], tmp_path, trial_state="completed")
    play(callback, trial(1, 8), [1.0, 2.0], tmp_path, trial_state="completed")
    callback.on_experiment_end([])
    wandb_server.artifacts[0].aliases.append("mine")
    callback = make(section=section, earlier={"id0": rows([9.0, 8.0]), "id1": rows([1.0, 2.0])})
    play(callback, trial(2, 8), [3.0, 4.0], tmp_path, trial_state="diverged")
    callback.on_experiment_end([])
    kept = [one.metadata["metrics"][METRIC] for one in wandb_server.artifacts if not one.deleted]
    # The newest has the alias `latest`.
    assert kept == [9.0, 1.0, 2.0, 4.0] or kept == [1.0, 2.0, 4.0]
    assert waiting_files(tmp_path) == []


def test_the_stop_button_stops_its_trial_alone(
    wandb_server: WandbServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(run_stopping.RunStopChecker.__init__.__kwdefaults__, "poll_interval", 0.2)
    callback, trials = make(), [trial(0, 8), trial(1, 8)]
    for one in trials:
        one.stopping_criterion = {}
        callback.log_trial_start(one)
        report(callback, one, rows([3.0]))
    wandb_server.wait_until(lambda: len(wandb_server.runs) == 2)
    callback.on_step_end(1, trials)
    assert [one.stopping_criterion for one in trials] == [{}, {}]
    wandb_server.store.stopped.add("id1")
    # The answer to the next rows says so.
    report(callback, trials[1], rows([2.5], first=2))
    for _ in range(100):
        callback.on_step_end(1, trials)
        if trials[1].stopping_criterion:
            break
        time.sleep(0.1)
    assert [one.stopping_criterion for one in trials] == [{}, {"training_iteration": 0}]
    last = {"step": 3, METRIC: 2.0, "trial_state": "running", "done": True}
    callback.log_trial_result(3, trials[1], last)
    trials[1].last_result = last
    assert MetricsRecord(last).outcome() == Outcome(TrialState.PRUNED, "stopped by a person in W&B")
    callback.log_trial_end(trials[1])
    report(callback, trials[0], rows([2.0], first=2))
    trials[0].last_result |= {"trial_state": "completed"}
    callback.log_trial_end(trials[0])
    callback.on_experiment_end([])
    runs = wandb_server.runs
    assert [run.history for run in runs.values()] == [rows([3.0, 2.0]), rows([3.0, 2.5, 2.0])]
    assert [run.summary["trial_state"] for run in runs.values()] == ["completed", "pruned"]
    assert runs["id1"].summary["reason"] == "stopped by a person in W&B"


def test_a_run_kept_on_disk_is_sent_when_the_server_is_back(
    wandb_server: WandbServer, make: Make, said: list[str], tmp_path: Path
) -> None:
    wandb_server.fail()
    callback, one, two = make(), trial(0, 8), trial(1, 8)
    callback.log_trial_start(one)
    report(callback, one, rows([3.0]))
    wandb_server.wait_until(lambda: wandb_server.refused > 0)
    while not list((tmp_path / "wandb").glob("offline-run-*-id0")):
        time.sleep(0.1)
    wandb_server.heal()
    for _ in range(22):
        time.sleep(0.1)
    callback.log_trial_start(two)
    for number, each in enumerate((one, two), start=2):
        report(callback, each, rows([2.0], first=number))
        each.last_result |= {"trial_state": "completed"}
        callback.log_trial_end(each)
    callback.on_experiment_end([])
    assert wandb_server.runs["id0"].history == rows([3.0, 2.0])
    assert wandb_server.runs["id1"].history == rows([2.0], first=3)
    assert not list((tmp_path / "wandb").glob("offline-run-*-id1"))
    assert settled(tmp_path) == ["id0", "id1"]
    (unreachable,) = said
    assert "cannot be reached" in unreachable


def test_the_search_has_a_run_of_its_own_that_a_resumed_search_continues(
    wandb_server: WandbServer, make: Make, tmp_path: Path, said: list[str]
) -> None:
    more: dict[str, Any] = {"summarize": True, "rungs": [1, 2], "importance": lambda: {"lora.r": 0.75}}
    more["page"] = lambda: "<p>what the search has found</p>"
    callback = make(**more)
    play(callback, trial(0, 8), [3.0, 2.0], tmp_path, trial_state="completed")
    play(callback, trial(1, 16), [4.0], tmp_path)
    callback.on_experiment_end([])
    wandb.teardown()
    (run,) = [run for run in wandb_server.runs.values() if run.job_type == "search"]
    assert (run.group, run.name, run.exit_code) == ("search", "search", 0)
    assert "`search-adapter:best`" in str(run.notes)
    assert f"The group: {wandb_server.url}/tester/project/groups/search/workspace" in str(run.notes)
    assert run.summary["tokens_per_second"] == 0
    run.notes = "edited"
    logs = {"id0": rows([3.0, 2.0]), "id1": rows([4.0])}
    past = [
        PastTrial("id0", 0, TrialState.COMPLETED, {"lora.r": 8}, 2.0, 2, 2, 1.0),
        PastTrial("id1", 1, TrialState.PRUNED, {"lora.r": 16}, 4.0, 1, 1, 1.0),
    ]
    callback = make(earlier=logs, past=past, **more)
    play(callback, trial(2, 32), [1.0], tmp_path, trial_state="diverged", reason="loss is nan")
    callback.on_experiment_end([])
    assert len([one for one in wandb_server.runs.values() if one.job_type == "search"]) == 1
    assert run.notes == "edited"
    plain = plain_rows(run.history)
    assert [(row["step"], row["trial/number"], row[f"best/{METRIC}"]) for row in plain] == [
        (1, 0, 2.0),
        (2, 1, 2.0),
        (3, 2, 1.0),
    ]
    assert (run.summary["trials/completed"], run.summary["trials/diverged"]) == (1, 1)
    assert (run.summary["best/trial"], run.summary["best/lora.r"]) == (2, 32)
    assert [wandb_server.runs[one].summary["rung"] for one in ("id0", "id1", "id2")] == [2, 1, 1]
    tables = {name: json.loads(text)["data"] for name, text in run.files.items() if ".table.json" in name}
    boards = [table for name, table in tables.items() if "leaderboard" in name]
    assert [line[:4] for line in max(boards, key=len)] == [
        [2, "id2", "diverged", 1.0],
        [0, "id0", "completed", 2.0],
        [1, "id1", "pruned", 4.0],
    ]
    assert [[1, 3], [2, 1]] in [table for name, table in tables.items() if "rungs" in name]
    assert [["lora.r", 0.75]] in [table for name, table in tables.items() if "importance" in name]
    pages = [text for name, text in run.files.items() if name.endswith(".html")]
    assert pages[-1] == b"<p>what the search has found</p>"
    assert run.summary["device_hours"] >= 0
    assert said == []
