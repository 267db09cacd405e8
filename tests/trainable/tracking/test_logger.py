"""The logger for scripts: the guide's interface, and warnings instead of errors."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb

from tests.support.offline_runs import offline_runs, only_run
from trainable.config import DataConfig, WandbConfig
from trainable.errors import ConfigError
from trainable.evaluation import Prediction
from trainable.tracking import WandBLogger


def refuse_warnings(line: str) -> None:
    assert line.startswith(("✅", "📊")), line


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Sets variables as a new process would find them: W&B reads them once."""
    wandb.teardown()
    yield monkeypatch
    monkeypatch.undo()
    wandb.teardown()


def logger_of(folder: Path, **wandb_section: Any) -> WandBLogger:
    section = {"mode": "offline", "save_code": False} | wandb_section
    return WandBLogger(WandbConfig(**section), directory=folder, say=refuse_warnings)


def test_the_guides_interface_writes_an_offline_run(tmp_path: Path) -> None:
    file = tmp_path / "base.yaml"
    file.write_text(
        "wandb: {project: p, group: g, mode: offline, notes: N, save_code: false}\nsearch: {num_trials: 3}"
    )
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("w")
    said: list[str] = []
    with WandBLogger(config_path=str(file), directory=tmp_path, say=said.append) as logger:
        logger.init(run_name="my-experiment", config={"lr": 5e-5, "group": "other", "tags": ["a", "a", 7]})
        logger.log_metrics({"custom_metric": 0.85}, step=0)
        logger.log_training_metrics(loss=0.42, learning_rate=5e-5, epoch=1, step=100, grad_norm=0.8)
        logger.log_predictions([Prediction("p", "a", "b", {"nlg/bleu_score": 0.5})])
        logger.log_model_artifact(
            model_path=tmp_path / "model", artifact_name="checkpoint-1000", aliases=["latest", "best"]
        )
    assert logger.run is None
    run = only_run(tmp_path)
    assert (run.told["name"], run.told["project"], run.told["notes"]) == ("my-experiment", "p", "N")
    assert run.told["tags"] == ["a", "7"]
    assert run.run["run_group"] == "other"
    assert run.told["config"]["lr"] == 5e-5
    assert run.told["exit_code"] == 0
    assert run.rows[0] == run.rows[0] | {"custom_metric": 0.85, "step": 0}
    expected = {"train/loss": 0.42, "train/learning_rate": 5e-5, "train/epoch": 1, "train/grad_norm": 0.8}
    assert run.rows[1] == run.rows[1] | expected | {"step": 100}
    assert run.told["summary"]["predictions"]["ncols"] == 4
    (artifact,) = run.artifacts_of("model")
    assert (artifact["name"], sorted(artifact["aliases"]), artifact["files"]) == (
        "checkpoint-1000",
        ["best", "latest"],
        ["weights"],
    )
    assert said[0].startswith("✅ W&B initialized: my-experiment (")
    assert said[1].startswith("📊 Dashboard: offline; send it later: wandb sync ")
    assert len(said) == 2


def test_plain_wandb_log_goes_to_the_run(tmp_path: Path) -> None:
    with logger_of(tmp_path) as logger:
        logger.init("viz")
        logger.log_metrics({"a": 1}, step=7)
        table = wandb.Table(data=[[1, 2], [3, 4]], columns=["x", "y"])
        wandb.log({"custom_plot": wandb.plot.scatter(table, "x", "y")})
        wandb.log({"distribution": wandb.Histogram(np.arange(5.0))})
        print("a line for the Logs tab")
    assert wandb.run is None
    run = only_run(tmp_path)
    assert run.told["summary"]["distribution"]["_type"] == "histogram"
    assert any("custom_plot_table" in str(row) for row in run.rows)
    assert run.rows[-1]["step"] == 7
    assert any("a line for the Logs tab" in line["line"] for line in run.told["console"])


@pytest.mark.parametrize(("fails", "code"), [(False, 0), (True, 1)])
def test_the_context_finishes_with_what_became_of_it(tmp_path: Path, fails: bool, code: int) -> None:
    def work() -> None:
        with logger_of(tmp_path) as logger:
            logger.init("r")
            if fails:
                raise ArithmeticError("training broke")

    if fails:
        with pytest.raises(ArithmeticError, match="training broke"):
            work()
    else:
        work()
    assert only_run(tmp_path).told["exit_code"] == code


def test_beginning_again_ends_the_run_before(tmp_path: Path) -> None:
    with logger_of(tmp_path) as logger:
        logger.init("one")
        logger.init("two")
    assert sorted(run.told["name"] for run in offline_runs(tmp_path)) == ["one", "two"]
    assert [run.told["exit_code"] for run in offline_runs(tmp_path)] == [0, 0]


def test_under_a_sweeps_agent_it_is_the_agents_run(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    for name, value in {"SWEEP_ID": "sweep1", "RUN_ID": "agents", "PROJECT": "p", "ENTITY": "e"}.items():
        environment.setenv(f"WANDB_{name}", value)
    with logger_of(tmp_path) as logger:
        logger.init("r", {"lora": {"r": 4}})
        assert (logger.run.id, logger.run.sweep_id) == ("agents", "sweep1")
    run = only_run(tmp_path)
    assert (run.run["run_id"], run.run["sweep_id"]) == ("agents", "sweep1")
    assert (run.told["project"], run.told["entity"]) == ("p", "e")
    assert run.told["config"]["lora"] == {"r": 4}


def test_custom_metrics_are_columns_with_their_best(tmp_path: Path) -> None:
    with logger_of(tmp_path, custom_metrics=["bleu_score", "temperature_mae"]) as logger:
        logger.init("r")
        for step, (bleu, mae) in enumerate([(0.1, 3.0), (0.4, 1.0), (0.2, 2.0)]):
            row = {"nlg/bleu_score": bleu, "weather/temperature_mae": mae, "nlg/rouge_l_f": bleu}
            logger.log_metrics(row | {"test/nlg/bleu_score": 9.0}, step)
    run = only_run(tmp_path)
    assert run.columns == {"nlg/bleu_score": ["max"], "weather/temperature_mae": ["min"]}
    summary = run.told["summary"]
    assert summary["nlg/bleu_score"] == {"max": 0.4}
    assert summary["weather/temperature_mae"] == {"min": 1.0}
    assert summary["nlg/rouge_l_f"] == 0.2


def test_a_custom_metric_that_nothing_gives_is_told_once(tmp_path: Path) -> None:
    said: list[str] = []
    config = WandbConfig(mode="offline", save_code=False, custom_metrics=["bleu_score", "blue_score"])
    with WandBLogger(config, directory=tmp_path, say=said.append) as logger:
        logger.init("r")
        logger.log_metrics({"mine/blue_score": 0.5}, 0)
    warnings = [line for line in said if "custom_metrics" in line]
    assert len(warnings) == 1
    assert "'blue_score'. Did you mean 'bleu_score'?" in warnings[0]
    # A family of the user's own may give it all the same.
    assert only_run(tmp_path).columns == {"mine/blue_score": ["last"]}


def test_predictions_are_as_many_as_asked_for(tmp_path: Path) -> None:
    rows = [Prediction(f"p{n}", "a", "b", {"nlg/bleu_score": n / 9}) for n in range(9)]
    with logger_of(tmp_path, num_predictions=4) as logger:
        logger.init("r")
        logger.log_predictions(rows, step=3)
    row = only_run(tmp_path).rows[0]
    assert (row["predictions.nrows"], row["step"]) == (4, 3)
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/predictions_*.json")
    assert '["p3","a","b",0.333' in table.read_text()


@pytest.mark.parametrize("off", [{"log_predictions": False}, {"num_predictions": 0}])
def test_predictions_can_be_off(tmp_path: Path, off: dict[str, Any]) -> None:
    with logger_of(tmp_path, **off) as logger:
        logger.init("r")
        logger.log_predictions([Prediction("p", "a", "b")])
    assert only_run(tmp_path).rows == []


@pytest.mark.parametrize(("on", "counted"), [(True, True), (False, False)])
def test_system_metrics_are_as_asked_for(
    tmp_path: Path, environment: pytest.MonkeyPatch, on: bool, counted: bool
) -> None:
    environment.setenv("WANDB_X_STATS_SAMPLING_INTERVAL", "0.1")
    with logger_of(tmp_path, log_system_metrics=on) as logger:
        logger.init("r")
        # W&B's service gives no sign of a sample: this is ten times the interval.
        time.sleep(1)
    kinds = {record["type"] for record in only_run(tmp_path).records}
    assert ("stats" in kinds) is counted


def test_code_and_data_are_versioned_unless_artifacts_are_off(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "train.py").write_text("print()")
    monkeypatch.chdir(tmp_path / "project")
    data = DataConfig(**{name: corpus / f"{name}.json" for name in ("train", "val", "test")})
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("w")

    def track(folder: Path, **section: Any) -> set[str]:
        with logger_of(folder, **section) as logger:
            logger.init("r")
            logger.use_data(data, "h" * 64)
            logger.log_model_artifact(tmp_path / "model", "m")
        return {artifact["type"] for artifact in only_run(folder).artifacts}

    assert track(tmp_path / "all", save_code=True) == {"code", "dataset", "model"}
    assert track(tmp_path / "no-code") == {"dataset", "model"}
    assert track(tmp_path / "no-model", log_model=False) == {"dataset"}
    assert track(tmp_path / "none", save_code=True, log_artifacts=False) == set()


def test_a_failing_client_is_told_once_and_never_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    logger = WandBLogger(WandbConfig(mode="offline", save_code=False), directory=tmp_path, say=said.append)
    logger.init("r")

    def refuse(*_: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(logger.run, "log", refuse)
        for step in range(3):
            logger.log_metrics({"a": 1}, step=step)
    logger.log_model_artifact(tmp_path / "nowhere.txt", "m")
    logger.finish()
    assert [line for line in said if "could not" in line] == [
        "W&B could not log metrics: No space left on device. Training continues."
    ]


def test_disabled_does_nothing_at_all(tmp_path: Path) -> None:
    logger = WandBLogger(WandbConfig(mode="disabled"), directory=tmp_path / "none", say=pytest.fail)
    logger.init("r")
    logger.log_metrics({"a": 1}, step=1)
    logger.log_model_artifact(tmp_path, "a")
    logger.finish()
    assert not (tmp_path / "none").exists()


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        WandBLogger(config_path=tmp_path / "none.yaml")
