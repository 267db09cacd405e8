"""What a fault of the infrastructure costs a trial, and when a node or the whole search is given up."""

from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, RayTaskError
from ray.tune import PlacementGroupFactory
from ray.tune.experiment import Experiment as RayExperiment
from ray.tune.trainable import Trainable

from tests.support.experiments import ExperimentBuilder
from trainable.errors import NodeError
from trainable.records import TrialState
from tune.search.ending import ABANDONED
from tune.search.faults import MAX_FAULTS, NODE_FAULTS, Fault, Faults, fault_of
from tune.search.trial_source import SearchTrial, TrialSource
from tune.store.reader import read

OTHERS = frozenset({"good", "bad"})


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("advance", f"Traceback\n  somewhere\n{type(cause).__name__}: {cause}", cause)


def faults(nodes: frozenset[str] = OTHERS) -> tuple[Faults, list[str]]:
    lines: list[str] = []
    return Faults(lambda: nodes, lines.append), lines


@pytest.mark.parametrize(
    "error",
    [
        RayActorError(),
        NodeDiedError("its node has died"),
        task_error(RayActorError()),
        task_error(task_error(RayActorError())),
        ObjectLostError("a" * 56, None, ""),
        task_error(OSError(28, "No space left on device")),
        task_error(ConnectionResetError("by peer")),
        task_error(RuntimeError("\nCheck that all nodes in the cluster have read/write access to")),
        task_error(NodeError("node x has another base model")),
    ],
)
def test_what_dies_with_a_machine_is_a_fault(error: Exception) -> None:
    assert fault_of(error, None) is not None


@pytest.mark.parametrize("error", [task_error(ValueError("no such layer")), RuntimeError("odd"), None])
def test_an_error_of_the_trial_is_none(error: Exception | None) -> None:
    assert fault_of(error, None) is None


def test_only_faults_between_which_no_step_is_gained_add_up() -> None:
    counted, _ = faults()
    for step in (10, 20, 30):
        assert all(counted.add("t", Fault("died")) for _ in range(MAX_FAULTS))
        counted.on_record("t", None, step)
    assert counted.last("t") is None
    assert [counted.add("t", Fault("died")) for _ in range(MAX_FAULTS + 1)] == [True] * MAX_FAULTS + [False]
    assert counted.last("t") == f"died ({MAX_FAULTS + 1} faults in a row, and no step gained)"


def test_a_trial_that_reports_the_same_step_again_and_again_is_given_up() -> None:
    counted, _ = faults()
    counted.on_record("t", "a", 10)
    for _ in range(MAX_FAULTS):
        assert counted.add("t", Fault("No space left on device"))
        counted.on_record("t", "a", 10)
    assert not counted.add("t", Fault("No space left on device"))


def test_waits_grow_from_nothing_and_differ_between_trials() -> None:
    counted, _ = faults()
    waits: dict[str, list[float]] = {}
    for trial_id in map(str, range(20)):
        for _ in range(8):
            counted.add(trial_id, Fault("died"))
            waits.setdefault(trial_id, []).append(counted.wait_s(trial_id))
    growth = [0, 1, 2, 4, 8, 16, 16, 16]
    assert all([wait / one[1] for wait in one] == growth for one in waits.values())
    assert {one[1] for one in waits.values()} == {1, 2, 3, 4}


def test_a_node_where_everything_dies_is_not_used_any_more() -> None:
    counted, lines = faults()
    for number in range(NODE_FAULTS):
        assert counted.excluded == frozenset()
        counted.add(f"t{number}", Fault("died", f"actor-{number}", "bad"))
    assert counted.excluded == {"bad"}
    assert [line.partition(" processes")[0] for line in lines] == ["node bad is not used any more: 3"]


def test_an_unfit_node_is_not_used_any_more_at_once() -> None:
    counted, lines = faults()
    assert counted.add("t", Fault("NodeError: other rows", "actor", "bad", is_unfit=True))
    assert counted.excluded == {"bad"}
    assert lines == ["node bad is not used: NodeError: other rows"]


def test_one_dead_engine_is_one_death_however_many_trials_it_had() -> None:
    counted, _ = faults()
    for number in range(10):
        counted.add(f"t{number}", Fault("died", "engine", "bad"))
    assert counted.excluded == frozenset()


def test_a_node_from_which_a_trial_reports_is_kept() -> None:
    counted, _ = faults()
    for number in range(10):
        counted.add("t", Fault("died", f"actor-{number}", "bad"))
        counted.on_record("u", "bad", number + 1)
    assert counted.excluded == frozenset()


def test_the_last_node_is_never_given_up() -> None:
    counted, _ = faults(frozenset({"bad"}))
    for number in range(10):
        counted.add("t", Fault("died", f"actor-{number}", "bad"))
    assert counted.excluded == frozenset()


def placed(excluded: frozenset[str]) -> PlacementGroupFactory:
    selector = {"bundle_label_selector": [{"node": f"!in({','.join(excluded)})"}]} if excluded else {}
    return PlacementGroupFactory([{"CPU": 1}], **selector)


@pytest.fixture(autouse=True)
def _without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give Ray's trials a folder, which they otherwise have from a Ray that runs."""
    folder = str(tmp_path / "session")
    monkeypatch.setattr("ray.train._internal.storage._get_ray_train_session_dir", lambda: folder)


@pytest.fixture
def experiment(tmp_path: Path) -> ExperimentBuilder:
    return ExperimentBuilder(tmp_path / "results" / "faulty", scheduler="none", num_trials=20)


def source(experiment: ExperimentBuilder, counted: Faults, new_trials: int = 1) -> TrialSource:
    made = TrialSource(
        experiment.open(new_trials), lambda: 100, experiment.store, faults=counted, request=placed
    )
    spec = RayExperiment("faulty", Trainable, storage_path=str(experiment.folder.parent))
    spec.spec["max_failures"] = 3
    made.add_configurations([spec])
    return made


def next_trial(made: TrialSource) -> Any:
    trial: Any = made.next_trial()
    assert isinstance(trial, SearchTrial)
    trial.init_local_path()
    Path(trial.local_path).mkdir(parents=True, exist_ok=True)
    return trial


def test_a_fault_costs_a_trial_no_retry_and_is_another_attempt(experiment: ExperimentBuilder) -> None:
    counted, _ = faults()
    trial = next_trial(source(experiment, counted))
    for attempt in range(2, 2 + MAX_FAULTS):
        trial.handle_error(RayActorError())
        assert trial.should_recover()
        assert (trial.num_failures, trial.config["attempt"]) == (0, attempt)
    trial.handle_error(RayActorError())
    assert not trial.should_recover()


def test_errors_of_its_own_use_up_a_trials_retries(experiment: ExperimentBuilder) -> None:
    trial = next_trial(source(experiment, faults()[0]))
    recovers = []
    for _ in range(4):
        trial.handle_error(RayActorError())
        trial.handle_error(task_error(ValueError("odd")))
        recovers.append(trial.should_recover())
    assert recovers == [True, True, True, False]


def test_a_trial_that_fails_by_itself_after_a_fault_is_told_with_its_own_error(
    experiment: ExperimentBuilder,
) -> None:
    counted, _ = faults()
    made = source(experiment, counted)
    trial = next_trial(made)
    trial.handle_error(RayActorError())
    while trial.should_recover():
        trial.handle_error(task_error(ValueError("odd")))
    (experiment.folder / trial.trial_id).mkdir()
    (experiment.folder / trial.trial_id / "error.txt").write_text("ValueError: odd\n")
    made.on_trial_complete(trial.trial_id, error=True)
    (ended,) = read(experiment.store).study_trials
    assert ended.reason == "ValueError: odd"
    assert ended.tells_about_its_configuration


def test_a_trial_starts_again_elsewhere_than_on_a_node_that_is_given_up(
    experiment: ExperimentBuilder,
) -> None:
    counted, _ = faults()
    trial = next_trial(source(experiment, counted, 2))
    for number in range(NODE_FAULTS):
        counted.add("other", Fault("died", f"actor-{number}", "bad"))
    trial.handle_error(RayActorError())
    assert trial.placement_group_factory == placed(frozenset({"bad"}))


def test_given_up_trials_are_the_infrastructures_fault_and_end_a_search_of_nothing_else(
    experiment: ExperimentBuilder,
) -> None:
    counted, _ = faults()
    made = source(experiment, counted, ABANDONED + 1)
    for _ in range(ABANDONED):
        trial = next_trial(made)
        while trial.should_recover():
            trial.handle_error(NodeDiedError("its node has died"))
        made.on_trial_complete(trial.trial_id, error=True)
    assert made.next_trial() is None
    assert f"the infrastructure failed {ABANDONED} trials in a row" in str(made._optuna.ended_early)
    assert "its node has died" in str(made._optuna.ended_early)
    ended = read(experiment.store)
    assert {trial.state for trial in ended.trials} == {TrialState.FAILED}
    assert not any(trial.tells_about_its_configuration for trial in ended.study_trials)


def test_a_record_shows_that_the_search_is_worth_continuing(experiment: ExperimentBuilder) -> None:
    counted, _ = faults()
    made = source(experiment, counted, 2 * ABANDONED + 2)
    working = next_trial(made)
    for _ in range(2 * ABANDONED):
        trial = next_trial(made)
        made.on_trial_result(working.trial_id, {"step": 1, "eval/loss": 1.0})
        made.on_trial_complete(trial.trial_id, {"reason": "ray.exceptions.NodeDiedError: gone"}, error=True)
    assert next_trial(made)


def test_the_number_of_trials_follows_the_cluster(experiment: ExperimentBuilder) -> None:
    size, now = [1], [0.0]
    made = TrialSource(
        experiment.open(9),
        lambda: size[0],
        experiment.store,
        faults=faults()[0],
        request=placed,
        clock=lambda: now[0],
    )
    made.add_configurations([RayExperiment("faulty", Trainable, storage_path=str(experiment.folder.parent))])
    assert next_trial(made)
    assert made.next_trial() is None
    size[0], now[0] = 3, 10.0
    assert [made.next_trial() is not None for _ in range(3)] == [True, True, False]
