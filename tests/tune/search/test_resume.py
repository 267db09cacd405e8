"""Planning changes nothing and refuses what must not change; carrying out mends logs, folders and study."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.experiments import ExperimentBuilder
from trainable.errors import ExperimentError
from trainable.records import TrialState
from tune.config import Config
from tune.search.reconcile import Action
from tune.search.resume import carry_out
from tune.store.reader import read


@pytest.fixture
def killed(tmp_path: Path) -> ExperimentBuilder:
    """One trial ended untold, one is in the middle, one has not reported."""
    made = ExperimentBuilder(tmp_path / "results" / "killed", scheduler="none")
    made.begin("done", 5, 10, 15, 20, state="completed")
    made.begin("half", 5, 10)
    made.begin("fresh")
    return made


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_planning_changes_nothing(killed: ExperimentBuilder) -> None:
    before = everything(killed.folder)
    found = killed.plan()
    assert [one.action for one in found.plan.decisions] == [
        Action.REPORT_END,
        Action.CONTINUE,
        Action.RESTART,
    ]
    assert found.plan.new_trials == 0
    assert everything(killed.folder) == before


def test_what_is_carried_out_leaves_nothing_running_and_holds_what_goes_on(killed: ExperimentBuilder) -> None:
    searcher = killed.open(0)
    carry_out(killed.plan(), searcher)
    assert next(trial.state for trial in read(killed.store).trials) is TrialState.COMPLETED
    held = searcher.next_resumed()
    assert (held.number, held.trial_id, held.attempt, held.checkpoint_number) == (1, "half", 2, 1)
    assert held.checkpoint == str(killed.folder / "half" / "checkpoint_000001")
    assert searcher.suggest("half")["number"] == 1
    fresh = searcher.next_resumed()
    assert (fresh.trial_id, fresh.checkpoint, fresh.attempt) == ("fresh", None, 1)
    # Killed again at this moment: the next plan is the same, but for what has been told.
    actions = [one.action for one in killed.plan().plan.decisions]
    assert actions == [Action.KEEP, Action.CONTINUE, Action.RESTART]


def test_a_torn_checkpoint_is_removed_and_the_one_before_it_is_used(killed: ExperimentBuilder) -> None:
    torn = killed.folder / "half" / "checkpoint_000001"
    content = (torn / "state.json").read_bytes()
    (torn / "state.json").write_bytes(content[:-7])
    found = killed.plan()
    assert [Path(torn.path).name for torn in found.plan.corrupt] == ["checkpoint_000001"]
    assert found.plan.decisions[1].checkpoint.step == 5
    carry_out(found, killed.open(0))
    assert not torn.exists()


def test_a_flipped_bit_is_found(killed: ExperimentBuilder) -> None:
    path = killed.folder / "half" / "checkpoint_000001" / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert killed.plan().plan.decisions[1].checkpoint.step == 5


def test_a_record_that_the_log_lost_comes_back_from_the_checkpoint(killed: ExperimentBuilder) -> None:
    log = killed.log("half")
    lines = log.read_text().splitlines()
    log.write_text(lines[0] + "\n" + lines[1][:20])
    assert [record.step for record in killed.store.trial("half").log()] == [5]
    carry_out(killed.plan(), killed.open(0))
    assert [record.step for record in killed.store.trial("half").log()] == [5, 10]


def test_one_that_asha_would_have_stopped_is_told_as_pruned(tmp_path: Path) -> None:
    made = ExperimentBuilder(tmp_path / "results" / "asha", grace_ratio=0.25, reduction_factor=2)
    made.begin("good", 5)
    made.begin("weak", 5)
    log = made.log("weak")
    record = json.loads(log.read_text())
    log.write_text(json.dumps(record | {"eval/loss": 9.0, "time": 200.0}) + "\n")
    found = made.plan().plan.decisions
    assert [one.action for one in found] == [Action.CONTINUE, Action.REPORT_END]
    assert found[1].outcome.state is TrialState.PRUNED


def test_more_trials_and_longer_ones(killed: ExperimentBuilder) -> None:
    carry_out(killed.plan(), killed.open(0))
    found = killed.plan({"search.num_trials": 10, "training.max_steps": 40})
    assert found.changes == {"search.num_trials": (3, 10), "training.max_steps": (20, 40)}
    assert found.plan.new_trials == 7
    assert [one.action for one in found.plan.decisions] == [Action.RUN_AGAIN, Action.CONTINUE, Action.RESTART]
    searcher = killed.open(7)
    carry_out(found, searcher)
    again = searcher.next_resumed()
    assert (again.number, again.attempt) == (3, 2)
    assert again.checkpoint == str(killed.folder / "done" / "checkpoint_000003")
    # Planned once more before it has run: it is one trial, and begins where it would have begun.
    later = killed.plan({"search.num_trials": 10, "training.max_steps": 40}).plan
    assert [one.action for one in later.decisions][::3] == [Action.KEEP, Action.CONTINUE]
    assert later.decisions[3].checkpoint.path == again.checkpoint
    assert later.new_trials == 7


def test_failed_trials_run_again_as_other_trials(killed: ExperimentBuilder) -> None:
    killed.searcher.on_trial_complete("fresh", None, error=True)
    assert killed.plan().plan.decisions[2].action is Action.KEEP
    found = killed.plan(retry_failed=True)
    assert found.plan.decisions[2].action is Action.RUN_AGAIN
    searcher = killed.open(0)
    carry_out(found, searcher)
    searcher.suggest("half")
    searcher.suggest(searcher.next_resumed().trial_id)
    trials = read(killed.store).trials
    assert (trials[3].follows, trials[3].params) == (2, trials[2].params)
    assert killed.plan(retry_failed=True).plan.decisions[2].action is Action.KEEP


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("model.name", "other", "adapters belong to the base model"),
        ("data.max_length", 64, "losses on other data cannot be compared"),
        ("search.metric", "train/loss", "given another objective"),
        ("search.mode", "max", "given another objective"),
        ("lora.dropout", 0.5, "made with the old value"),
        ("evaluation.eval_every_steps", 2, "made with the old value"),
        ("training.max_steps", 10, "cannot shrink on resume, from 20 to 10"),
        ("search.space", "weather_quick", "its type and its choices cannot change|the axes were"),
    ],
)
def test_what_must_not_change_is_refused_with_the_reason(
    killed: ExperimentBuilder, key: str, value: Any, why: str
) -> None:
    if key == "search.space":
        value = {"training.learning_rate": {"type": "uniform", "low": 1e-5, "high": 1e-3}}
    with pytest.raises(ExperimentError, match=why):
        killed.plan({key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("search.scheduler", "median"),
        ("search.reduction_factor", 2.0),
        ("search.max_concurrent", 7),
        ("search.sampler", "random"),
        ("engine.slots_per_device", 2),
        ("cluster.num_cpus", 2),
        ("wandb.project", "another"),
    ],
)
def test_what_may_change_is_said(killed: ExperimentBuilder, key: str, value: Any) -> None:
    assert list(killed.plan({key: value}).changes) == [key]


def test_the_study_may_be_in_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", str(tmp_path))
    made = ExperimentBuilder(
        tmp_path / "results" / "db", storage="sqlite:///${HERE}/study.db", scheduler="none"
    )
    made.begin("half", 5, 10)
    assert (tmp_path / "study.db").is_file()
    assert not (made.folder / "study.journal").exists()
    found = made.plan()
    assert [one.action for one in found.plan.decisions] == [Action.CONTINUE]
    searcher = made.open(2)
    carry_out(found, searcher)
    assert searcher.suggest("half")["number"] == 0
    assert [trial.trial_id for trial in read(made.store).trials] == ["half"]


def test_a_password_is_never_written_down() -> None:
    with pytest.raises(ValueError, match=r"must not hold a password.*write \$\{VARIABLE\} in its place"):
        Config.model_validate({"search": {"storage": "postgresql://me:hunter2@host/db"}})
    url = "postgresql://me:${PGPASSWORD}@host/db"
    assert Config.model_validate({"search": {"storage": url}}).search.storage == url


def test_a_range_may_widen_and_a_choice_may_not(tmp_path: Path) -> None:
    def axes(high: float, values: list[str]) -> dict[str, Any]:
        return {
            "training.learning_rate": {"type": "log_uniform", "low": 1e-5, "high": high},
            "training.lr_scheduler": {"type": "choice", "values": values},
        }

    made = ExperimentBuilder(tmp_path / "results" / "wide", space=axes(1e-3, ["cosine", "linear"]))
    assert list(made.plan({"search.space": axes(1e-2, ["cosine", "linear"])}).changes) == ["search.space"]
    with pytest.raises(ExperimentError, match=r"axis 'training.lr_scheduler': its type and its choices"):
        made.plan({"search.space": axes(1e-3, ["cosine", "constant"])})
