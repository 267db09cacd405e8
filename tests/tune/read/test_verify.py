"""Whatever is broken in an experiment is found and named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.experiments import ExperimentBuilder
from tests.support.wandb_records import ENTITY, Artifact
from tests.support.wandb_server import WandbServer
from trainable.records import MetricsRecord, Outcome, TrialState
from tune.config import StoredConfig
from tune.read.verify import verify


@pytest.fixture
def whole(tmp_path: Path) -> ExperimentBuilder:
    made = ExperimentBuilder(tmp_path / "results" / "whole", scheduler="none")
    for number in range(3):
        name = f"trial{number}"
        made.begin(name, 5, 10, 15, 20, state="completed")
        last = json.loads(made.log(name).read_text().splitlines()[-1])
        made.searcher.on_trial_complete(name, last)
    return made


def rewrite(log: Path, change: Callable[[list[str]], list[str]]) -> None:
    log.write_text("".join(line + "\n" for line in change(log.read_text().splitlines())))


def test_a_whole_experiment_is_sound(whole: ExperimentBuilder) -> None:
    checked = verify(whole.store)
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
def test_a_wrong_log_is_found(
    whole: ExperimentBuilder, change: Callable[[list[str]], list[str]], told: str
) -> None:
    rewrite(whole.log("trial1"), change)
    assert any(told in line for line in verify(whole.store).problems)


def test_a_damaged_checkpoint_is_found(whole: ExperimentBuilder) -> None:
    path = whole.folder / "trial2" / "checkpoint_000001" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    (problem,) = verify(whole.store).problems
    assert problem.startswith("trial2/checkpoint_000001: ")
    assert "is corrupt" in problem


def test_a_folder_without_a_trial_is_found(whole: ExperimentBuilder) -> None:
    shutil.copytree(whole.folder / "trial0", whole.folder / "stray")
    assert verify(whole.store).problems == ["folder stray: its trial is not in the study"]


def test_a_trial_that_nobody_runs_is_found(whole: ExperimentBuilder) -> None:
    whole.searcher.new_trials = 1
    whole.searcher.suggest("lost")
    assert verify(whole.store).problems == [
        "trial 3: marked as running, and no search is; `loratune resume` resumes it"
    ]
    with whole.store.locked():
        assert verify(whole.store).problems == []


def test_two_trials_with_one_run_id_are_found(whole: ExperimentBuilder) -> None:
    whole.searcher.new_trials = 1
    whole.searcher.suggest("trial0")
    whole.searcher.report_end(3, MetricsRecord(step=0), Outcome(TrialState.FAILED, "a reason"))
    assert "wandb_run_id trial0: 2 trials have it" in verify(whole.store).problems


def test_a_secret_on_the_disk_is_found(whole: ExperimentBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    (whole.folder / "ray.log").write_text("key 0123456789abcdef\n")
    (whole.folder / "config.old").write_text("storage: postgresql://me:hunter2@host/db\n")
    assert verify(whole.store).problems == [
        "config.old: it holds a URL with a password",
        "ray.log: it holds the value of WANDB_API_KEY",
    ]


def version_of(number: int, loss: float, aliases: list[str]) -> Artifact:
    return Artifact(
        artifact_id=f"artifact-{number}",
        entity=ENTITY,
        project="project",
        name="whole-adapter",
        type="model",
        version=number,
        digest=str(number),
        metadata={"metrics": {"eval/loss": loss}},
        description=None,
        logged_by="trial0",
        aliases=aliases,
        committed=True,
    )


@pytest.mark.parametrize(
    ("versions", "told"),
    [
        ([(0.1, []), (0.05, ["best"])], None),
        ([(0.1, ["best"]), (0.05, [])], "the alias `best` in W&B is not on the best version, v1"),
        ([(0.1, ["best"])], "the best version in W&B has eval/loss 0.1, the search's best has 0.05"),
        ([], "the best version in W&B has eval/loss None, the search's best has 0.05"),
    ],
)
def test_the_best_version_in_wandb_is_compared_with_the_logs(
    whole: ExperimentBuilder,
    wandb_server: WandbServer,
    versions: list[tuple[float, list[str]]],
    told: str | None,
) -> None:
    wandb = whole.config.wandb.model_copy(update={"project": "project", "log_model": "best"})
    whole.store.write_config(StoredConfig(whole.config.model_copy(update={"wandb": wandb}), {}, ()))
    for number, (loss, aliases) in enumerate(versions):
        wandb_server.artifacts.append(version_of(number, loss, aliases))
    expected = [] if told is None else [f"{told}; `loratune resume` moves it"]
    assert verify(whole.store).problems == expected
