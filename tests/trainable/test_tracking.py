"""The logger for scripts: the guide's interface, and a guest that never spoils the party."""

from pathlib import Path
from typing import Any

import pytest
import wandb

from trainable.config import WandbConfig
from trainable.errors import ConfigError
from trainable.evaluation import Prediction
from trainable.tracking import WandBLogger, finish_run, resolve_mode, start_run, sync_command


def test_the_mode_is_as_configured_else_as_the_key_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    assert resolve_mode(WandbConfig()) == "offline"
    assert resolve_mode(WandbConfig(mode="disabled")) == "disabled"
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert resolve_mode(WandbConfig()) == "online"


def test_the_guides_interface_writes_an_offline_run(tmp_path: Path) -> None:
    file = tmp_path / "base.yaml"
    file.write_text("wandb: {project: p, group: g, mode: offline}\nsearch: {num_trials: 3}")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("w")
    said: list[str] = []
    with WandBLogger(config_path=str(file), directory=tmp_path, say=said.append) as logger:
        logger.init(run_name="my-experiment", config={"lr": 5e-5, "group": "other", "tags": ["a"]})
        run = logger.run
        assert (run.name, run.group, run.tags, run.config["lr"]) == ("my-experiment", "other", ("a",), 5e-5)
        logger.log_metrics({"custom_metric": 0.85}, step=0)
        logger.log_training_metrics(loss=0.42, learning_rate=5e-5, epoch=1, step=100, grad_norm=0.8)
        assert run.summary["train/loss"] == 0.42
        assert run.summary["train/grad_norm"] == 0.8
        assert run.summary["step"] == 100
        logger.log_predictions([Prediction("p", "a", "b", {"nlg/bleu_score": 0.5})])
        logger.log_model_artifact(tmp_path / "model", "checkpoint-1000", aliases=["latest", "best"])
    assert said[0].startswith("✅ W&B initialized: my-experiment (")
    assert said[1].startswith("📊 Dashboard: ")
    assert len(said) == 2
    assert logger.run is None
    assert list((tmp_path / "wandb").glob("offline-run-*"))
    assert str(tmp_path) in sync_command(tmp_path)


@pytest.mark.parametrize(("fails", "code"), [(False, 0), (True, 1)])
def test_the_context_finishes_with_what_became_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool, code: int
) -> None:
    codes: list[int] = []
    monkeypatch.setattr("trainable.tracking.finish_run", lambda _, exit_code: codes.append(exit_code) or True)
    logger = WandBLogger(WandbConfig(mode="offline"), directory=tmp_path, say=lambda _: None)
    monkeypatch.setattr("trainable.tracking.start_run", lambda *_, **__: FakeRun())

    def work() -> None:
        with logger:
            logger.init("r")
            if fails:
                raise ArithmeticError("training broke")

    if fails:
        with pytest.raises(ArithmeticError, match="training broke"):
            work()
    else:
        work()
    assert codes == [code]


class FakeRun:
    """A run whose disk is full."""

    name, id, offline = "r", "i", True

    def log(self, _: Any) -> None:
        raise OSError("No space left on device")


def test_a_failing_client_is_told_once_and_never_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("trainable.tracking.start_run", lambda *_, **__: FakeRun())
    logger = WandBLogger(WandbConfig(mode="offline"), directory=tmp_path, say=said.append)
    logger.init("r")
    for step in range(3):
        logger.log_metrics({"a": 1}, step=step)
    assert [line for line in said if "could not" in line] == [
        "W&B could not log metrics: No space left on device. Training goes on."
    ]


def test_an_unreachable_server_is_said_and_the_run_goes_on_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, said = wandb.init, []

    def no_server(**options: Any) -> Any:
        if options["mode"] == "online":
            raise wandb.errors.CommError("Run initialization has timed out")
        return genuine(**options)

    monkeypatch.setattr(wandb, "init", no_server)
    run = start_run(WandbConfig(mode="online"), tmp_path, said.append, name="n")
    assert "timed out" in said[0]
    assert "wandb sync" in said[0]
    assert run.settings.mode == "offline"
    assert finish_run(run)


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
