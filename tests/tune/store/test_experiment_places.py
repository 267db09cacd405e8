"""An experiment is the same on a local disk and in a store: created once, killed, read, resumed, verified."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.experiments import ExperimentBuilder
from tests.support.s3_server import S3Server
from tests.support.stores import place, s3
from trainable.errors import ConfigError, ExperimentError
from trainable.evaluation import Prediction
from trainable.places import Place, inside, parent_of
from trainable.records import MetricsRecord
from trainable.stores import written_folder
from tune.config import Config
from tune.read.experiment import Experiment
from tune.read.verify import verify
from tune.search.reconcile import Action
from tune.search.resume import carry_out
from tune.store.experiment import METRICS, ExperimentStore
from tune.store.reader import read

__all__ = ["place", "s3"]


@pytest.fixture
def killed(place: Place) -> ExperimentBuilder:
    """A search killed with one trial done, one half way, one begun."""
    made = ExperimentBuilder(inside(place, "e"), scheduler="none")
    made.begin("done", 5, 10, 15, 20, state="completed")
    made.begin("half", 5, 10)
    made.begin("fresh")
    return made


def test_what_was_killed_is_planned_carried_out_and_verified(killed: ExperimentBuilder) -> None:
    plan = killed.plan()
    assert [one.action for one in plan.plan.decisions] == [
        Action.REPORT_END,
        Action.CONTINUE,
        Action.RESTART,
    ]
    searcher = killed.open(0)
    carry_out(plan, searcher)
    held = searcher.next_resumed()
    assert held is not None
    assert held.checkpoint == str(inside(killed.store.place, "half/checkpoint_000001"))
    assert held.checkpoint_number == 1
    with killed.store.locked():
        checked = verify(ExperimentStore(killed.store.place))
    assert checked.problems == []
    assert (checked.trials, checked.records, checked.checkpoints) == (3, 6, 6)


def test_a_checkpoint_whose_upload_was_cut_off_is_removed_and_the_one_before_is_used(
    killed: ExperimentBuilder,
) -> None:
    newest = "half/checkpoint_000001/optimizer.safetensors"
    killed.store._storage.delete(newest)
    assert any("'optimizer.safetensors' is missing" in line for line in verify(killed.store).problems)
    plan = killed.plan()
    assert plan.plan.decisions[1].checkpoint is not None
    assert plan.plan.decisions[1].checkpoint.step == 5
    carry_out(plan, killed.open(0))
    assert len(killed.store.trial("half").checkpoints()) == 1
    assert killed.store.read_checkpoint(killed.store.trial("half").checkpoints()[0])["step"] == 5


def test_a_checkpoint_that_was_altered_is_not_resumed_from(killed: ExperimentBuilder) -> None:
    name = "half/checkpoint_000001/adapter/adapter_config.json"
    text = killed.store._storage.read(name)
    killed.store._storage.write(name, text.replace(b"LORA", b"LOHA"))
    assert any("'adapter/adapter_config.json' is corrupt" in line for line in verify(killed.store).problems)
    checkpoint = killed.plan().plan.decisions[1].checkpoint
    assert checkpoint is not None
    assert checkpoint.step == 5


def test_the_best_adapter_is_loaded_from_anywhere(killed: ExperimentBuilder) -> None:
    best = Experiment(read(ExperimentStore(killed.store.place))).best
    assert (best.trial.trial_id, best.metrics["step"]) == ("done", 20)
    assert (best.adapter / "adapter_config.json").is_file()
    with written_folder(killed.store.best, last=METRICS) as folder:
        (folder / "adapter").mkdir()
        (folder / "adapter" / "adapter_config.json").write_text("kept")
        (folder / METRICS).write_text(json.dumps({"trial_id": "done", "step": 20}))
    best = Experiment(read(ExperimentStore(killed.store.place))).best
    assert (best.adapter / "adapter_config.json").read_text() == "kept"


def test_predictions_of_an_evaluation_without_its_record_are_dropped(killed: ExperimentBuilder) -> None:
    files = killed.store.trial("half")
    for step in (5, 10, 15):
        files.append_predictions([Prediction(prompt="p", reference="r", prediction=f"at {step}", step=step)])
    files.drop_predictions_after(10)
    files.append_predictions([Prediction(prompt="p", reference="r", prediction="again", step=15)])
    assert [row.prediction for row in files.predictions()] == ["at 5", "at 10", "again"]
    files.append(MetricsRecord({"step": 15, "eval/loss": 0.5}))
    assert [record.step for record in ExperimentStore(killed.store.place).trial("half").log()] == [5, 10, 15]


def test_a_name_is_taken_once_and_experiments_are_found_by_name_and_place(killed: ExperimentBuilder) -> None:
    results = parent_of(killed.store.place)
    with pytest.raises(ExperimentError, match="'e' exists already"):
        ExperimentStore.create(killed.config)
    assert ExperimentStore.find("e", results) == killed.store
    assert ExperimentStore.find(str(killed.store.place), Path("elsewhere")) == killed.store
    assert ExperimentStore.names_in(results) == ["e"]
    with pytest.raises(ExperimentError, match=r"'f' does not exist.*There: e\."):
        ExperimentStore.find("f", results)
    assert killed.store.read_config().config.search.results_dir == results


def test_an_experiment_that_another_process_works_on_is_not_discarded(killed: ExperimentBuilder) -> None:
    with killed.store.locked():
        assert killed.store.is_locked()
        with pytest.raises(ExperimentError, match="is being worked on by process"):
            ExperimentStore(killed.store.place).locked().__enter__()
        killed.store.discard()
    assert killed.store.read_config().config == killed.config
    assert not killed.store.is_locked()
    killed.store.discard()
    with pytest.raises(ConfigError, match="does not exist"):
        killed.store.read_config()


def test_a_study_travels_to_another_process_as_its_place(killed: ExperimentBuilder) -> None:
    study = pickle.loads(pickle.dumps(killed.store.create_study(killed.config)))
    assert [trial.trial_id for trial in study.trials()] == ["done", "half", "fresh"]


def test_a_secret_in_a_store_is_found(killed: ExperimentBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "k" * 40)
    killed.store._storage.write("half/error.txt", b"refused: " + b"k" * 40)
    assert "half/error.txt: it holds the value of RAY_AUTH_TOKEN" in verify(killed.store).problems
    assert killed.store.trial("half").last_error() == "refused: " + "k" * 40


def test_a_report_is_one_request_to_the_study_and_one_to_the_log(s3: S3Server) -> None:
    made = ExperimentBuilder(s3.uri("results/e"), scheduler="none")
    made.searcher.suggest("one")
    record = MetricsRecord({"step": 5, "max_steps": 20, "trial_state": "running", "eval/loss": 0.5})
    before = len(s3.requests)
    made.store.trial("one").append(record)
    made.searcher.on_trial_result("one", record)
    changes = [key for method, key in s3.requests[before:] if method == "PUT"]
    assert changes == ["results/e/one/results.jsonl", "results/e/study.journal"]


def test_a_store_that_does_not_answer_or_refuses_is_one_error_before_anything_runs(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune.store.experiment._FIRST_CONTACT_S", 1.0)
    dead = "s3://bucket/results?endpoint_override=127.0.0.1:9&scheme=http"
    config = Config.model_validate({"search": {"name": "e", "results_dir": dead, "mode": "min"}})
    with pytest.raises(ExperimentError, match=r"'s3://bucket' cannot be used: .*connect.*Check the address"):
        ExperimentStore.create(config)
    other = s3.uri("results").replace("//bucket", "//other")
    with pytest.raises(ExperimentError, match=r"'s3://other' cannot be used: AWS Error NO_SUCH_BUCKET"):
        ExperimentStore.create(
            Config.model_validate({"search": {"name": "e", "results_dir": other, "mode": "min"}})
        )
    with s3.outage(403), pytest.raises(ExperimentError, match=r"ACCESS_DENIED.*keys in the environment"):
        ExperimentStore.find("e", s3.uri("results"))


KILLED = """
import os, signal, sys
from trainable.objective import Objective
from trainable.records import MetricsRecord
from tune.store.experiment import ExperimentStore

store = ExperimentStore(sys.argv[1])
with store.locked():
    files = store.trial("half")
    for step in range(15, 2000, 5):
        files.append(MetricsRecord({"step": step, "eval/loss": 1.0}))
        print(step, flush=True)
"""


def test_every_line_that_was_acknowledged_before_a_kill_is_there(s3: S3Server) -> None:
    made = ExperimentBuilder(s3.uri("results/e"), scheduler="none")
    made.begin("half", 5, 10)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(made.store.place)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(40)]
        process.kill()
        acknowledged += [int(line) for line in process.stdout.read().split()]
    steps = [record.step for record in ExperimentStore(made.store.place).trial("half").log()]
    assert steps[: len(acknowledged) + 2] == [5, 10, *acknowledged]
    assert len(steps) <= len(acknowledged) + 3
    # On the machine where it died nobody has to wait until its claim ends.
    with made.store.locked():
        assert len(s3.keys("results/e/lock/")) == 1
