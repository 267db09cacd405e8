"""What a study must do, in a journal file and in a database."""

from pathlib import Path

import cloudpickle
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from trainable.errors import ExperimentError
from trainable.objective import Objective
from trainable.records import Outcome, TrialState
from tune.store.study import StudyStore

LOSS = Objective("eval/loss", "min")
DISTRIBUTIONS = {
    "rate": FloatDistribution(1e-5, 1e-1, log=True),
    "kind": CategoricalDistribution(["a", "b"]),
}


@pytest.fixture(params=["journal", "sqlite"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    return tmp_path / "study.journal" if request.param == "journal" else f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def study(location: Path | str) -> StudyStore:
    return StudyStore.create(location, "name", LOSS)


def begin(study: StudyStore, trial_id: str, rate: float = 1e-3, **more: object) -> int:
    drawn = {"rate": rate, "kind": "b"}
    params = {"training.learning_rate": rate, "lora.target_modules": ["q_proj"]}
    return study.begin(trial_id, drawn, DISTRIBUTIONS, params, 5.0, **more)  # type: ignore[arg-type]


def reopened(location: Path | str) -> StudyStore:
    study = StudyStore.open(location, "name", LOSS)
    assert study is not None
    return study


def test_opening_what_is_not_there_creates_nothing(location: Path | str, tmp_path: Path) -> None:
    assert StudyStore.open(location, "name", LOSS) is None
    assert list(tmp_path.iterdir()) == []


def test_a_study_of_another_name_is_not_opened(study: StudyStore, location: Path | str) -> None:
    assert StudyStore.open(location, "another", LOSS) is None


def test_a_trial_is_there_at_once_with_all_that_is_known(study: StudyStore, location: Path | str) -> None:
    assert begin(study, "a", sampler_attrs={"cma:state": "x"}, enqueued={"lora.r": 4}) == 0
    trial = reopened(location).trial(0)
    assert (trial.state, trial.trial_id, trial.wandb_run_id) == (TrialState.RUNNING, "a", "a")
    assert trial.params == {"training.learning_rate": 1e-3, "lora.target_modules": ["q_proj"]}
    assert trial.frozen.params == {"rate": 1e-3, "kind": "b"}
    assert trial.frozen.distributions == DISTRIBUTIONS
    assert (trial.started, trial.has_params, trial.enqueued) == (5.0, True, {"lora.r": 4})
    assert trial.sampler_attrs == {"cma:state": "x"}


def test_trials_are_numbered_in_the_order_they_were_begun(study: StudyStore, location: Path | str) -> None:
    assert [begin(study, name) for name in "abc"] == [0, 1, 2]
    assert [trial.trial_id for trial in reopened(location).trials()] == ["a", "b", "c"]


def test_a_step_is_reported_once(study: StudyStore, location: Path | str) -> None:
    begin(study, "a")
    study.report(0, 5, 1, 2.0)
    study.report(0, 5, 2, 9.0)
    study.report(0, 10, 2, None)
    trial = reopened(location).trial(0)
    assert trial.intermediate_values == {5: 2.0}
    assert (trial.frozen.user_attrs["attempts"], trial.frozen.user_attrs["steps"]) == (2, 10)


@pytest.mark.parametrize(
    ("state", "infrastructure", "infeasible", "tells"),
    [
        (TrialState.COMPLETED, False, False, True),
        (TrialState.PRUNED, False, False, True),
        (TrialState.DIVERGED, False, True, True),
        (TrialState.OOM, False, True, True),
        (TrialState.FAILED, False, True, True),
        (TrialState.FAILED, True, False, False),
    ],
)
def test_an_end_is_stored_with_whose_fault_it_was(
    study: StudyStore,
    location: Path | str,
    state: TrialState,
    infrastructure: bool,
    infeasible: bool,
    tells: bool,
) -> None:
    begin(study, "a")
    study.report(0, 5, 1, 2.0)
    value = 1.5 if state is TrialState.COMPLETED else None
    study.record_end(0, Outcome(state, "why"), value, 9.0, infrastructure=infrastructure)
    trial = reopened(location).trial(0)
    assert (trial.state, trial.reason, trial.ended) == (state, "why", 9.0)
    assert trial.is_infeasible is infeasible
    assert trial.tells_about_its_configuration is tells
    if state is TrialState.COMPLETED:
        assert trial.frozen.value == 1.5


def test_a_suspended_trial_runs_again_as_itself(study: StudyStore, location: Path | str) -> None:
    begin(study, "a")
    study.set_waiting(0)
    assert reopened(location).trial(0).state is TrialState.PENDING
    reopened(location).begin_again(0, "a", 2, 50.0)
    trial = reopened(location).trial(0)
    assert (trial.state, trial.started, trial.frozen.user_attrs["attempts"]) == (TrialState.RUNNING, 5.0, 2)


def test_another_attempt_names_the_first(study: StudyStore, location: Path | str) -> None:
    begin(study, "a")
    study.record_end(0, Outcome(TrialState.FAILED, "lost"), None, 9.0, infrastructure=True)
    assert study.enqueue_attempt(0, "b", "a/checkpoint_000001") == 1
    first, again = reopened(location).trials()
    assert (again.follows, again.begins_from, again.trial_id) == (0, "a/checkpoint_000001", "b")
    assert (again.state, again.params, first.state) == (TrialState.PENDING, first.params, TrialState.FAILED)


def test_a_note_is_kept(study: StudyStore, location: Path | str) -> None:
    study.set_note("data_hash", "abc")
    assert (reopened(location).note("data_hash"), study.note("missing")) == ("abc", None)


def test_another_direction_is_refused(study: StudyStore, location: Path | str) -> None:
    with pytest.raises(ExperimentError, match="created to minimize"):
        StudyStore.create(location, "name", Objective("eval/loss", "max"))
    with pytest.raises(ExperimentError, match="created to minimize"):
        StudyStore.open(location, "name", Objective("eval/loss", "max"))


def test_a_pickled_study_opens_its_storage_again(study: StudyStore) -> None:
    begin(study, "a")
    again = cloudpickle.loads(cloudpickle.dumps(study))
    begin(again, "b")
    assert [trial.trial_id for trial in again.trials()] == ["a", "b"]
