"""Ray is given held trials as themselves, then new ones, and never more than it may have at once."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from ray.train._internal.storage import StorageContext
from ray.tune import Checkpoint, PlacementGroupFactory
from ray.tune.experiment import Experiment as RayExperiment
from ray.tune.trainable import Trainable

from tests.support.experiments import ExperimentBuilder, save
from tests.support.s3_server import S3Server
from tests.support.stores import s3
from trainable.checkpoint.tensors import load_checkpoint
from trainable.stores import open_store
from tune.search.faults import Faults
from tune.search.resume import carry_out
from tune.search.trial_source import TrialSource, _checkpoint
from tune.store.reader import read

__all__ = ["s3"]


@pytest.fixture
def killed(tmp_path: Path) -> ExperimentBuilder:
    made = ExperimentBuilder(tmp_path / "results" / "killed", scheduler="none")
    made.begin("half", 5, 10)
    made.begin("fresh")
    return made


def generator(experiment: ExperimentBuilder, concurrent: int, new_trials: int = 0) -> TrialSource:
    searcher = experiment.open(new_trials)
    carry_out(experiment.plan(), searcher)
    made = TrialSource(
        searcher,
        lambda: concurrent,
        experiment.store,
        faults=Faults(frozenset, lambda line: None),
        request=lambda excluded: PlacementGroupFactory([{"CPU": 0.5}]),
    )
    storage = str(experiment.folder.parent)
    made.add_configurations([RayExperiment("killed", Trainable, storage_path=storage)])
    return made


def test_a_held_trial_keeps_its_id_its_checkpoint_and_its_numbering(killed: ExperimentBuilder) -> None:
    made = generator(killed, concurrent=8, new_trials=1)
    trials: list[Any] = [made.next_trial() for _ in range(3)]
    assert [trial.trial_id for trial in trials[:2]] == ["half", "fresh"]
    assert [trial.config["number"] for trial in trials] == [0, 1, 2]
    assert [trial.config["attempt"] for trial in trials] == [2, 1, 1]
    half, fresh, new = trials
    assert half.checkpoint.path == str(killed.folder / "half" / "checkpoint_000001")
    assert half.storage.current_checkpoint_index == 1
    assert (fresh.checkpoint, fresh.storage.current_checkpoint_index) == (None, -1)
    assert new.trial_id not in ("half", "fresh")
    assert made.is_finished()
    assert made.next_trial() is None


def test_no_more_are_given_than_ray_may_have_at_once(killed: ExperimentBuilder) -> None:
    made = generator(killed, concurrent=1)
    assert made.next_trial().trial_id == "half"
    assert made.next_trial() is None
    assert not made.is_finished()
    last = {"step": 20, "trial_state": "completed", "eval/loss": 1.0}
    made.on_trial_complete("half", last)
    assert made.next_trial().trial_id == "fresh"
    assert made.is_finished()


def test_a_trial_that_failed_is_told_with_its_last_error(killed: ExperimentBuilder) -> None:
    made = generator(killed, concurrent=8)
    for _ in range(2):
        made.next_trial()
    (killed.folder / "half" / "error.txt").write_text("Traceback\n  somewhere\nRuntimeError: no luck\n\n")
    made.on_trial_complete("half", error=True)
    made.on_trial_complete("fresh", error=True)
    reasons = [trial.reason for trial in read(killed.store).trials]
    assert reasons == ["RuntimeError: no luck", "the trial's process ended with an error"]


def test_a_checkpoint_in_a_store_is_what_ray_keeps_and_resumes_from(s3: S3Server, tmp_path: Path) -> None:
    files, results = open_store(s3.uri("results"))
    storage = StorageContext(
        results, "e", storage_filesystem=files, trial_dir_name="half", current_checkpoint_index=0
    )
    save(tmp_path / "written", 5, {"step": 5})
    kept = storage.persist_current_checkpoint(Checkpoint.from_directory(tmp_path / "written"))
    assert kept.path == "bucket/results/e/half/checkpoint_000000"
    for checkpoint in (
        _checkpoint(s3.uri("results/e/half/checkpoint_000000")),
        pickle.loads(pickle.dumps(kept)),
    ):
        with checkpoint.as_directory() as folder:
            assert load_checkpoint(Path(folder)).step == 5
