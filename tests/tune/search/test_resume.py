"""Planning changes nothing and refuses what must not change; carrying out mends logs, folders and study."""

import json
from pathlib import Path
from typing import Any

import pytest

from search_spaces import Space
from tests.trainable.conftest import trial_config
from trainable.checkpoint.tensors import Checkpoint, save_checkpoint
from trainable.errors import ExperimentError
from trainable.records import TrialState
from tune.config import Config, storage_of
from tune.search.reconcile import Action
from tune.search.resume import Resumption, carry_out, plan
from tune.search.samplers import make_sampler
from tune.search.searcher import OptunaSearcher
from tune.store.reader import CONFIG_NAME, LOG_NAME, read_log, read_trials

STEPS = 20


class Experiment:
    """An experiment's folder as a killed search leaves it, made through the searcher itself."""

    def __init__(self, folder: Path, **search: Any) -> None:
        self.folder = folder
        settings = {"name": folder.name, "num_trials": 3, "startup_trials": 2, **search}
        self.config = Config.model_validate(
            {"search": settings, "training": {"max_steps": STEPS}, "evaluation": {"eval_every_steps": 5}}
        )
        folder.mkdir(parents=True)
        (folder / CONFIG_NAME).write_text(self.config.to_yaml())
        self.searcher = self.open(3)

    def open(self, new_trials: int) -> OptunaSearcher:
        search = self.config.search
        return OptunaSearcher(
            Space.load(search.space, self.config.trial()),
            self.config.trial(),
            study_name=str(search.name),
            storage=storage_of(self.config, self.folder),
            metric=search.metric,
            mode=search.mode,
            sampler=lambda number: make_sampler(search, number),
            new_trials=new_trials,
        )

    def begin(self, trial_id: str, *steps: int, state: str = "running") -> None:
        """Begin a trial that reports at some steps and saves each time; the last says `state`."""
        self.searcher.suggest(trial_id)
        for index, step in enumerate(steps):
            said = state if step == steps[-1] else "running"
            record = {
                "time": 100.0 + step,
                "step": step,
                "max_steps": STEPS,
                "trial_state": said,
                "eval/loss": 1 / step,
            }
            folder = self.folder / trial_id
            folder.mkdir(exist_ok=True)
            with (folder / LOG_NAME).open("a") as log:
                log.write(json.dumps(record) + "\n")
            self.searcher.on_trial_result(trial_id, record)
            save(folder / f"checkpoint_{index:06d}", step, record)

    def plan(self, changes: dict[str, Any] | None = None, **options: Any) -> Resumption:
        told = self.config.model_dump(mode="json")
        for key, value in (changes or {}).items():
            section, name = key.split(".")
            told[section][name] = value
        return plan(self.folder, self.config, Config.model_validate(told), **options)


def save(folder: Path, step: int, record: dict[str, Any]) -> None:
    window = {"losses": [], "widths": [], "tokens": 0, "seconds": 0.0}
    save_checkpoint(
        folder, Checkpoint(trial_config(), step, record, "base", "0" * 64, ("q_proj",), window, {}, {}, {})
    )


@pytest.fixture
def killed(tmp_path: Path) -> Experiment:
    """One trial ended untold, one is in the middle, one has not reported."""
    made = Experiment(tmp_path / "results" / "killed", scheduler="none")
    made.begin("done", 5, 10, 15, 20, state="completed")
    made.begin("half", 5, 10)
    made.begin("fresh")
    return made


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_planning_changes_nothing(killed: Experiment) -> None:
    before = everything(killed.folder)
    found = killed.plan()
    assert [step.action for step in found.plan.steps] == [Action.TELL, Action.CONTINUE, Action.RESTART]
    assert found.plan.new_trials == 0
    assert everything(killed.folder) == before


def test_what_is_carried_out_leaves_nothing_running_and_holds_what_goes_on(killed: Experiment) -> None:
    searcher = killed.open(0)
    carry_out(killed.plan(), searcher)
    assert next(trial.state for trial in read_trials(killed.folder)) is TrialState.COMPLETED
    held = searcher.next_held()
    assert (held.number, held.trial_id, held.attempt, held.checkpoint_index) == (1, "half", 2, 1)
    assert held.checkpoint == str(killed.folder / "half" / "checkpoint_000001")
    assert searcher.suggest("half")["number"] == 1
    fresh = searcher.next_held()
    assert (fresh.trial_id, fresh.checkpoint, fresh.attempt) == ("fresh", None, 1)
    # Killed again at this moment: the next plan is the same, but for what has been told.
    actions = [step.action for step in killed.plan().plan.steps]
    assert actions == [Action.KEEP, Action.CONTINUE, Action.RESTART]


def test_a_torn_checkpoint_is_removed_and_the_one_before_it_is_used(killed: Experiment) -> None:
    torn = killed.folder / "half" / "checkpoint_000001"
    content = (torn / "state.json").read_bytes()
    (torn / "state.json").write_bytes(content[:-7])
    found = killed.plan()
    assert [Path(torn.path).name for torn in found.plan.torn] == ["checkpoint_000001"]
    assert found.plan.steps[1].checkpoint.step == 5
    carry_out(found, killed.open(0))
    assert not torn.exists()


def test_a_flipped_bit_is_found(killed: Experiment) -> None:
    path = killed.folder / "half" / "checkpoint_000001" / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert killed.plan().plan.steps[1].checkpoint.step == 5


def test_a_record_that_the_log_lost_comes_back_from_the_checkpoint(killed: Experiment) -> None:
    log = killed.folder / "half" / LOG_NAME
    lines = log.read_text().splitlines()
    log.write_text(lines[0] + "\n" + lines[1][:20])
    assert [record["step"] for record in read_log(log)] == [5]
    carry_out(killed.plan(), killed.open(0))
    assert [record["step"] for record in read_log(log)] == [5, 10]


def test_one_that_asha_would_have_stopped_is_told_as_pruned(tmp_path: Path) -> None:
    made = Experiment(tmp_path / "results" / "asha", grace_ratio=0.25, reduction_factor=2)
    made.begin("good", 5)
    made.begin("weak", 5)
    log = made.folder / "weak" / LOG_NAME
    record = json.loads(log.read_text())
    log.write_text(json.dumps(record | {"eval/loss": 9.0, "time": 200.0}) + "\n")
    found = made.plan().plan.steps
    assert [step.action for step in found] == [Action.CONTINUE, Action.TELL]
    assert found[1].state is TrialState.PRUNED


def test_more_trials_and_longer_ones(killed: Experiment) -> None:
    carry_out(killed.plan(), killed.open(0))
    found = killed.plan({"search.num_trials": 10, "training.max_steps": 40})
    assert found.changes == {"search.num_trials": (3, 10), "training.max_steps": (20, 40)}
    assert found.plan.new_trials == 7
    assert [step.action for step in found.plan.steps] == [Action.RUN_AGAIN, Action.CONTINUE, Action.RESTART]
    searcher = killed.open(7)
    carry_out(found, searcher)
    again = searcher.next_held()
    assert (again.number, again.attempt) == (3, 2)
    assert again.checkpoint == str(killed.folder / "done" / "checkpoint_000003")
    # Planned once more before it has run: it is one trial, and begins where it would have begun.
    later = killed.plan({"search.num_trials": 10, "training.max_steps": 40}).plan
    assert [step.action for step in later.steps][::3] == [Action.KEEP, Action.CONTINUE]
    assert later.steps[3].checkpoint.path == again.checkpoint
    assert later.new_trials == 7


def test_failed_trials_run_again_as_other_trials(killed: Experiment) -> None:
    killed.searcher.on_trial_complete("fresh", None, error=True)
    assert killed.plan().plan.steps[2].action is Action.KEEP
    found = killed.plan(retry_failed=True)
    assert found.plan.steps[2].action is Action.RUN_AGAIN
    searcher = killed.open(0)
    carry_out(found, searcher)
    searcher.suggest("half")
    searcher.suggest(searcher.next_held().trial_id)
    trials = read_trials(killed.folder)
    assert (trials[3].follows, trials[3].params) == (2, trials[2].params)
    assert killed.plan(retry_failed=True).plan.steps[2].action is Action.KEEP


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("model.name", "other", "adapters belong to the base model"),
        ("data.max_length", 64, "losses on other data cannot be compared"),
        ("search.metric", "train/loss", "told another objective"),
        ("search.mode", "max", "told another objective"),
        ("lora.dropout", 0.5, "made with the old value"),
        ("evaluation.eval_every_steps", 2, "made with the old value"),
        ("training.max_steps", 10, "cannot shrink in mid-search, from 20 to 10"),
        ("search.space", "weather_quick", "its type and its choices cannot change|the axes were"),
    ],
)
def test_what_must_not_change_is_refused_with_the_reason(
    killed: Experiment, key: str, value: Any, why: str
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
def test_what_may_change_is_said(killed: Experiment, key: str, value: Any) -> None:
    assert list(killed.plan({key: value}).changes) == [key]


def test_the_study_may_be_in_a_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", str(tmp_path))
    made = Experiment(tmp_path / "results" / "db", storage="sqlite:///${HERE}/study.db", scheduler="none")
    made.begin("half", 5, 10)
    assert (tmp_path / "study.db").is_file()
    assert not (made.folder / "study.journal").exists()
    found = made.plan()
    assert [step.action for step in found.plan.steps] == [Action.CONTINUE]
    searcher = made.open(2)
    carry_out(found, searcher)
    assert searcher.suggest("half")["number"] == 0
    assert [trial.trial_id for trial in read_trials(made.folder)] == ["half"]


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

    made = Experiment(tmp_path / "results" / "wide", space=axes(1e-3, ["cosine", "linear"]))
    assert list(made.plan({"search.space": axes(1e-2, ["cosine", "linear"])}).changes) == ["search.space"]
    with pytest.raises(ExperimentError, match=r"axis 'training.lr_scheduler': its type and its choices"):
        made.plan({"search.space": axes(1e-3, ["cosine", "constant"])})
