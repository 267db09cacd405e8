"""The study is told the truth about every trial, and a searcher that comes back knows all of it."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from search_spaces import Space
from trainable import records
from trainable.config import TrialConfig
from trainable.errors import ConfigError
from trainable.objective import Objective
from tune.search.samplers import SAMPLERS, sampler_kind
from tune.search.searcher import OptunaSearcher, ResumedTrial
from tune.sections import SearchConfig
from tune.store.study import StudyStore

METRIC = "eval/loss"
MIXED: dict[str, Any] = {
    "lora.r": {"type": "power_of_two", "low": 4, "high": 128},
    "lora.dropout": {"type": "uniform", "low": 0.0, "high": 0.5},
    "training.lr_scheduler": {"type": "choice", "values": ["linear", "cosine"]},
}


def make(
    folder: Path,
    *,
    trials: int = 8,
    seed: int = 0,
    sampler: str = "tpe",
    space: str | dict[str, Any] = "lora",
    held: Sequence[ResumedTrial] = (),
) -> OptunaSearcher:
    now = [1000.0]

    def clock() -> float:
        now[0] += 1
        return now[0]

    return OptunaSearcher(
        Space.load(space, TrialConfig()),
        TrialConfig(),
        StudyStore.create(folder / "study.journal", "experiment", Objective(METRIC, "min")),
        SearchConfig(seed=seed, startup_trials=3, sampler=sampler),
        new_trials=trials,
        resumed=held,
        clock=clock,
    )


def record(step: int, loss: float | None, state: str = "running", **more: Any) -> dict[str, Any]:
    scored = {} if loss is None else {METRIC: loss}
    return {"step": step, "trial_state": state, **scored, **more}


def told(folder: Path) -> list[optuna.trial.FrozenTrial]:
    study = StudyStore.open(folder / "study.journal", "experiment", Objective(METRIC, "min"))
    return study.study.get_trials() if study else []


def test_a_suggestion_is_a_whole_trial(tmp_path: Path) -> None:
    searcher = make(tmp_path)
    first = searcher.suggest("ray-1")
    assert first["number"] == 0
    config = TrialConfig.model_validate(first["trial"])
    assert config.lora.r == first["params"]["lora.r"]
    attributes = told(tmp_path)[0].user_attrs
    assert attributes["ray_trial_id"] == attributes["wandb_run_id"] == "ray-1"
    assert attributes["params"] == first["params"]
    assert attributes["started"] == 1001
    assert told(tmp_path)[0].state is TrialState.RUNNING


def test_a_complete_trial_has_its_last_value_and_every_step(tmp_path: Path) -> None:
    searcher = make(tmp_path)
    searcher.suggest("a")
    searcher.on_trial_result("a", record(10, 3.0))
    searcher.on_trial_result("a", record(20, 1.0))
    searcher.on_trial_complete("a", record(30, 2.0, "completed"))
    trial = told(tmp_path)[0]
    assert trial.state is TrialState.COMPLETE
    assert trial.value == 2.0
    assert trial.intermediate_values == {10: 3.0, 20: 1.0, 30: 2.0}
    assert trial.user_attrs["trial_state"] == "completed"
    assert trial.user_attrs["steps"] == 30
    assert trial.user_attrs["ended"] > trial.user_attrs["started"]


def test_a_stopped_trial_is_pruned_with_the_report_that_stopped_it(tmp_path: Path) -> None:
    """Ray hands the stopping report to `on_trial_complete` alone."""
    searcher = make(tmp_path)
    searcher.suggest("a")
    searcher.on_trial_result("a", record(10, 3.0))
    searcher.on_trial_complete("a", record(20, 2.5))
    trial = told(tmp_path)[0]
    assert trial.state is TrialState.PRUNED
    assert trial.intermediate_values == {10: 3.0, 20: 2.5}
    assert trial.value == 2.5
    assert trial.user_attrs["reason"] == "stopped by the scheduler at step 20"


@pytest.mark.parametrize(
    ("result", "error", "state", "reason"),
    [
        (record(7, None, "diverged", reason="loss is nan"), False, "diverged", "loss is nan"),
        (record(7, math.nan, "diverged", reason="nan"), False, "diverged", "nan"),
        (record(7, None, "oom", reason="one row does not fit"), False, "oom", "one row does not fit"),
        (record(7, 1.0), True, "failed", "ended with an error"),
        (None, True, "failed", "ended with an error"),
        (record(7, None, "completed"), False, "failed", "no finite eval/loss"),
    ],
)
def test_what_did_not_end_well_fails_with_its_reason(
    tmp_path: Path, result: dict | None, error: bool, state: str, reason: str
) -> None:
    searcher = make(tmp_path)
    searcher.suggest("a")
    searcher.on_trial_complete("a", result, error=error)
    trial = told(tmp_path)[0]
    assert trial.state is TrialState.FAIL
    assert trial.user_attrs["trial_state"] == state
    assert reason in trial.user_attrs["reason"]
    assert all(math.isfinite(value) for value in trial.intermediate_values.values())


def test_what_is_told_twice_or_unknown_changes_nothing(tmp_path: Path) -> None:
    searcher = make(tmp_path)
    searcher.suggest("a")
    searcher.on_trial_result("a", record(10, 3.0))
    searcher.on_trial_result("a", record(10, 99.0))
    searcher.on_trial_complete("a", record(20, 2.0, "completed"))
    searcher.on_trial_complete("a", record(30, 1.0, "completed"))
    searcher.on_trial_result("a", record(40, 1.0))
    searcher.on_trial_complete("nobody", record(1, 1.0), error=True)
    assert len(told(tmp_path)) == 1
    assert told(tmp_path)[0].intermediate_values == {10: 3.0, 20: 2.0}


def test_a_trial_that_was_started_again_tells_its_attempts(tmp_path: Path) -> None:
    searcher = make(tmp_path)
    searcher.suggest("a")
    searcher.on_trial_result("a", record(10, 3.0))
    assert told(tmp_path)[0].user_attrs["attempts"] == 1
    searcher.on_trial_complete("a", record(10, 3.0, "completed", attempt=2))
    assert told(tmp_path)[0].user_attrs["attempts"] == 2


def test_the_sampler_learns_from_stopped_trials(tmp_path: Path) -> None:
    """The same trials are asked for; only the values that they were stopped with differ."""

    def last_suggestion(folder: Path, sign: int) -> dict[str, Any]:
        folder.mkdir()
        searcher = make(folder, trials=12)
        for number in range(11):
            suggestion = searcher.suggest(str(number))
            rate = suggestion["params"]["training.learning_rate"]
            searcher.on_trial_complete(str(number), record(10, sign * rate))
        assert {trial.state for trial in told(folder)} == {TrialState.PRUNED}
        return suggestion["params"]

    low, high = last_suggestion(tmp_path / "a", 1), last_suggestion(tmp_path / "b", -1)
    assert low["training.learning_rate"] < high["training.learning_rate"]


def test_the_search_ends_after_its_trials(tmp_path: Path) -> None:
    searcher = make(tmp_path, trials=2)
    assert [type(searcher.suggest(name)) for name in "ab"] == [dict, dict]
    assert searcher.suggest("c") == Searcher.FINISHED


def test_what_is_suspended_waits_and_goes_on_as_itself(tmp_path: Path) -> None:
    searcher = make(tmp_path, trials=3)
    first = [searcher.suggest(name) for name in "ab"]
    searcher.on_trial_complete("a", record(5, 1.0, "completed"))
    searcher.on_trial_result("b", record(5, 2.0))
    searcher.suspend()
    assert [trial.state for trial in told(tmp_path)] == [TrialState.COMPLETE, TrialState.WAITING]
    again = make(tmp_path, trials=1, held=[ResumedTrial(1, "b", attempt=2)])
    assert again.next_resumed() == ResumedTrial(1, "b", attempt=2)
    resumed = again.suggest("b")
    assert resumed == first[1] | {"attempt": 2}
    assert again.next_resumed() is None
    assert told(tmp_path)[1].state is TrialState.RUNNING
    again.on_trial_complete("b", record(10, 1.5, "completed"))
    assert told(tmp_path)[1].intermediate_values == {5: 2.0, 10: 1.5}
    assert again.suggest("c")["number"] == 2
    assert again.suggest("d") == Searcher.FINISHED


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_an_interrupted_search_suggests_what_it_would_have_suggested(tmp_path: Path, sampler: str) -> None:
    def run(folder: Path, restarts: tuple[int, ...]) -> list[dict[str, Any]]:
        folder.mkdir()
        searcher, found = make(folder, sampler=sampler), []
        for number in range(8):
            if number in restarts:
                searcher = make(folder, sampler=sampler, trials=8 - number)
            suggestion = searcher.suggest(str(number))
            found.append(suggestion["params"])
            loss = suggestion["params"]["lora.r"] + suggestion["params"]["training.learning_rate"]
            searcher.on_trial_complete(str(number), record(9, loss, "completed"))
        return found

    whole = run(tmp_path / "whole", ())
    assert run(tmp_path / "interrupted", (1, 4, 5)) == whole
    assert len({str(params) for params in whole}) == 8


def begin_all_but_two_ended(folder: Path, trials: int, sampler: str) -> OptunaSearcher:
    folder.mkdir()
    searcher = make(folder, sampler=sampler, trials=trials, space="weather_quick")
    for number in range(trials):
        rank = searcher.suggest(str(number))["params"]["lora.r"]
        if number < trials - 2:
            searcher.on_trial_complete(str(number), record(9, rank, "completed"))
    return searcher


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("drawn", [0, 1, 2])
def test_a_process_that_died_while_it_drew_changes_no_draw(
    tmp_path: Path, sampler: str, drawn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_all_but_two_ended(tmp_path / "a", 7, sampler)
    whole = [trial.user_attrs["params"] for trial in told(tmp_path / "a")]
    searcher, genuine = begin_all_but_two_ended(tmp_path / "b", 6, sampler), optuna.Trial._suggest
    searcher.new_trials, left = 1, [drawn]

    def dies(self: optuna.Trial, *args: Any, **options: Any) -> Any:
        if left[0] == 0:
            raise SystemExit
        left[0] -= 1
        return genuine(self, *args, **options)

    monkeypatch.setattr(optuna.Trial, "_suggest", dies)
    with pytest.raises(SystemExit):
        searcher.suggest("6")
    monkeypatch.setattr(optuna.Trial, "_suggest", genuine)
    assert len(told(tmp_path / "b")) == 6
    again = make(tmp_path / "b", sampler=sampler, trials=1, space="weather_quick")
    assert again.suggest("later")["params"] == whole[6]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("drawn", [0, 1, 2])
def test_a_trial_that_an_earlier_version_left_without_parameters_is_completed(
    tmp_path: Path, sampler: str, drawn: int
) -> None:
    """Earlier versions drew in the stored study, one parameter at a time."""
    begin_all_but_two_ended(tmp_path / "a", 7, sampler)
    whole = told(tmp_path / "a")[6]
    study = begin_all_but_two_ended(tmp_path / "b", 6, sampler)._study.study
    trial = study.ask(fixed_distributions={})
    for name, value in list(whole.params.items())[:drawn]:
        distribution = whole.distributions[name]
        internal = distribution.to_internal_repr(value)
        study._storage.set_trial_param(trial._trial_id, name, internal, distribution)
    assert len(told(tmp_path / "b")[6].params) == drawn
    held = [ResumedTrial(6, "later")]
    again = make(tmp_path / "b", sampler=sampler, trials=0, held=held, space="weather_quick")
    assert again.suggest("later")["params"] == whole.user_attrs["params"]
    assert told(tmp_path / "b")[6].params == whole.params


def test_an_end_that_was_not_told_is_told(tmp_path: Path) -> None:
    make(tmp_path).suggest("a")
    outcome = records.Outcome(records.TrialState.COMPLETED)
    make(tmp_path).report_end(0, records.MetricsRecord(record(9, 1.0, "completed")), outcome)
    trial = told(tmp_path)[0]
    assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.COMPLETE, 1.0, {9: 1.0})


def test_another_attempt_has_the_same_parameters_and_says_whose_it_is(tmp_path: Path) -> None:
    searcher = make(tmp_path)
    first = searcher.suggest("a")
    searcher.on_trial_complete("a", None, error=True)
    number = searcher.attempt_again(0, "b", None)
    searcher.resume_trial(ResumedTrial(number, "b", attempt=2))
    again = searcher.suggest("b")
    assert (again["params"], again["follows"]) == (first["params"], 0)
    assert told(tmp_path)[1].user_attrs["follows"] == 0


def test_a_trial_that_did_not_fit_is_infeasible(tmp_path: Path) -> None:
    searcher = make(tmp_path)
    for name, state in (("a", "oom"), ("b", "completed")):
        searcher.suggest(name)
        searcher.on_trial_complete(name, record(5, 1.0, state))
    assert [trial.constraints["fits the device"] for trial in told(tmp_path)] == [1.0, 0.0]


def test_trials_that_all_fail_in_the_same_way_end_the_search(tmp_path: Path) -> None:
    searcher = make(tmp_path)
    for name in "abc":
        assert isinstance(searcher.suggest(name), dict)
        searcher.on_trial_complete(name, record(0, None, "failed", reason="no such layer"))
    assert searcher.suggest("d") == Searcher.FINISHED
    assert searcher.ended_early == "the first 3 trials all failed in the same way: no such layer"


@pytest.mark.parametrize("states", [["completed", *["failed"] * 5], [*["failed"] * 2, "diverged", "failed"]])
def test_a_search_that_has_done_better_goes_on(tmp_path: Path, states: list[str]) -> None:
    searcher = make(tmp_path)
    for number, state in enumerate(states):
        searcher.suggest(str(number))
        searcher.on_trial_complete(str(number), record(5, 1.0, state, reason="the same"))
    assert searcher.ended_early is None


def test_the_same_seed_suggests_the_same(tmp_path: Path) -> None:
    def suggestions(folder: Path, seed: int) -> list[dict]:
        folder.mkdir()
        searcher = make(folder, seed=seed)
        found = []
        for number in range(6):
            suggestion = searcher.suggest(str(number))
            found.append(suggestion["params"])
            searcher.on_trial_complete(str(number), record(9, suggestion["params"]["lora.r"], "completed"))
        return found

    first = suggestions(tmp_path / "a", 1)
    assert suggestions(tmp_path / "b", 1) == first
    assert suggestions(tmp_path / "c", 2) != first


def test_a_pickled_searcher_finds_its_study_and_its_live_trials(tmp_path: Path) -> None:
    searcher = make(tmp_path)
    searcher.suggest("a")
    searcher.on_trial_result("a", record(10, 3.0))
    content = cloudpickle.dumps(searcher)
    assert b"JournalStorage" not in content
    again = cloudpickle.loads(content)
    again.on_trial_complete("a", record(20, 2.0, "completed"))
    assert told(tmp_path)[0].state is TrialState.COMPLETE
    searcher.save(str(tmp_path / "state"))
    restored = make(tmp_path)
    restored.restore(str(tmp_path / "state"))
    restored.suspend()
    assert restored.suggest("b")["number"] == 1


@pytest.mark.parametrize("name", ["tpe", "random", "gp", "cmaes", "qmc"])
def test_every_sampler_suggests_in_silence(
    tmp_path: Path, name: str, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    if needed := SAMPLERS[name].package:
        pytest.importorskip(needed, reason=f"sampler {name} needs the extra loratune[samplers]")
    optuna.logging.enable_propagation()
    searcher = make(tmp_path, sampler=name, space=MIXED)
    for number in range(5):
        suggestion = searcher.suggest(str(number))
        assert 4 <= suggestion["params"]["lora.r"] <= 128
        searcher.on_trial_complete(str(number), record(9, float(number), "completed"))
    optuna.logging.disable_propagation()
    assert caplog.messages == []
    assert not [str(warning.message) for warning in recwarn if "optuna" in warning.filename]


@pytest.mark.parametrize(("name", "package"), [("gp", "scipy"), ("qmc", "scipy"), ("cmaes", "cmaes")])
def test_a_sampler_whose_package_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf"'{name}' needs the package '{package}': pip install"):
        sampler_kind(name)
