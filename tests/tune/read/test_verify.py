"""Whatever is broken in an experiment is found and named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tune.search.test_resume import Experiment
from trainable.records import TrialState
from tune.read.verify import verify
from tune.store.lock import locked
from tune.store.reader import LOG_NAME


@pytest.fixture
def whole(tmp_path: Path) -> Experiment:
    made = Experiment(tmp_path / "results" / "whole", scheduler="none")
    for number in range(3):
        name = f"trial{number}"
        made.begin(name, 5, 10, 15, 20, state="completed")
        last = json.loads((made.folder / name / LOG_NAME).read_text().splitlines()[-1])
        made.searcher.on_trial_complete(name, last)
    return made


def rewrite(log: Path, change: Callable[[list[str]], list[str]]) -> None:
    log.write_text("".join(line + "\n" for line in change(log.read_text().splitlines())))


def test_a_whole_experiment_is_sound(whole: Experiment) -> None:
    checked = verify(whole.folder)
    assert checked.problems == []
    assert (checked.trials, checked.records, checked.checkpoints) == (3, 12, 12)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: [lines[0], *lines[2:]], "trial 1: no record between steps 5 and 15"),
        (lambda lines: lines[1:], "trial 1: no record between steps 0 and 10"),
        (lambda lines: [*lines[:2], *lines[1:]], "trial 1: step 10 comes after step 10 in its log"),
        (lambda lines: [*lines[:-1], lines[-1].replace("0.05", "0.06")], "log and study differ at step 20"),
        (
            lambda lines: [*lines[:-1], lines[-1].replace("completed", "oom")],
            "log says oom, the study completed",
        ),
    ],
)
def test_a_wrong_log_is_found(whole: Experiment, change: Callable[[list[str]], list[str]], told: str) -> None:
    rewrite(whole.folder / "trial1" / LOG_NAME, change)
    assert any(told in line for line in verify(whole.folder).problems)


def test_a_damaged_checkpoint_is_found(whole: Experiment) -> None:
    path = whole.folder / "trial2" / "checkpoint_000001" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    (problem,) = verify(whole.folder).problems
    assert problem.startswith("trial2/checkpoint_000001: ")
    assert "torn or altered" in problem


def test_a_folder_without_a_trial_is_found(whole: Experiment) -> None:
    shutil.copytree(whole.folder / "trial0", whole.folder / "stray")
    assert verify(whole.folder).problems == ["folder stray: its trial is not in the study"]


def test_a_trial_that_nobody_runs_is_found(whole: Experiment) -> None:
    whole.searcher.new_trials = 1
    whole.searcher.suggest("lost")
    assert verify(whole.folder).problems == [
        "trial 3: said to run, and no search does; `loratune resume` takes it up"
    ]
    with locked(whole.folder):
        assert verify(whole.folder).problems == []


def test_two_trials_with_one_run_id_are_found(whole: Experiment) -> None:
    whole.searcher.new_trials = 1
    whole.searcher.suggest("trial0")
    whole.searcher.tell_end(3, {"step": 0}, TrialState.FAILED, "a reason")
    assert "wandb_run_id trial0: 2 trials have it" in verify(whole.folder).problems


def test_a_secret_on_the_disk_is_found(whole: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    (whole.folder / "ray.log").write_text("key 0123456789abcdef\n")
    (whole.folder / "config.old").write_text("storage: postgresql://me:hunter2@host/db\n")
    assert verify(whole.folder).problems == [
        "config.old: it holds a URL with a password",
        "ray.log: it holds the value of WANDB_API_KEY",
    ]
