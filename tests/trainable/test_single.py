"""A single run: what it leaves, what it tells, and that it goes on exactly where it stopped."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainable import records
from trainable.checkpoint import load_checkpoint
from trainable.config import TrialConfig
from trainable.engine import Engine
from trainable.errors import ExperimentError
from trainable.records import TrialState
from trainable.single import run_name, run_single


class FakeLogger:
    """Takes what the W&B logger would; anything else is an error."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.rows: list[dict[str, Any]] = []
        self.artifacts: list[tuple[Path, str, list[str]]] = []
        self.predictions: list[Any] = []

    def init(self, run_name: str, config: dict[str, Any]) -> None:
        assert self.name is None
        assert config["lora"]
        self.name = run_name

    def log_metrics(self, metrics: dict[str, Any], step: int) -> None:
        self.rows.append({"step": step, **metrics})

    def log_training_metrics(self, *, step: int, **metrics: float) -> None:
        self.rows.append({"step": step, **metrics})

    def log_predictions(self, rows: list[Any]) -> None:
        self.predictions += rows

    def log_model_artifact(self, path: Path, name: str, aliases: list[str]) -> None:
        self.artifacts.append((path, name, aliases))


def configured(micro_base: Path, corpus: Path, **training: Any) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "model": {"name": str(micro_base)},
            "data": {name: corpus / f"{name}.json" for name in ("train", "val", "test")},
            "lora": {"r": 4, "alpha": 8, "dropout": 0.1},
            "training": {"max_steps": 6, "batch_size": 2, "learning_rate": 5e-3} | training,
            "evaluation": {"eval_every_steps": 3, "text_rows": 3, "max_new_tokens": 6},
            "wandb": {"log_freq": 2},
        }
    )


def run(config: TrialConfig, folder: Path, **options: Any) -> tuple[Any, FakeLogger, list[str]]:
    logger, said = FakeLogger(), []
    return run_single(config, folder, logger, said.append, **options), logger, said


def test_what_a_run_leaves_and_tells(micro_base: Path, corpus: Path, tmp_path: Path) -> None:
    result, logger, said = run(configured(micro_base, corpus), tmp_path / "run")
    assert result.state is TrialState.COMPLETED
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "adapter",
        "best",
        "checkpoint",
        "metrics.json",
        "predictions.jsonl",
    ]
    assert load_checkpoint(tmp_path / "run" / "checkpoint").step == 6
    best = load_checkpoint(tmp_path / "run" / "best").record
    evaluated = [row for row in logger.rows if records.EVAL_LOSS in row]
    assert [row["step"] for row in evaluated] == [3, 6]
    assert (
        best[records.EVAL_LOSS]
        == min(row[records.EVAL_LOSS] for row in evaluated)
        == result.best["eval/loss"]
    )
    assert [row["step"] for row in logger.rows if "grad_norm" in row] == [2, 4]
    assert result.test["test/loss"] > 0
    assert "test/nlg/bleu_score" in result.test
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test"] == result.test
    assert len(result.predictions) == len(logger.predictions) == 3
    assert logger.name == "lora-r4-a8-lr5e-3"
    assert logger.artifacts[0][2] == ["best", "latest", "final"]
    assert said[-1].startswith("step 6/6")


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    micro_base: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(micro_base, corpus)
    run(config, tmp_path / "whole")
    genuine, taken = Engine.step, [0]

    def stop_after_four(self: Engine, names: Any) -> None:
        taken[0] += 1
        if taken[0] == 5:
            raise KeyboardInterrupt
        genuine(self, names)

    monkeypatch.setattr(Engine, "step", stop_after_four)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "halves")
    monkeypatch.setattr(Engine, "step", genuine)
    with pytest.raises(ExperimentError, match=r"holds a run already. Go on with it by --resume"):
        run(config, tmp_path / "halves")
    result, logger, _ = run(config, tmp_path / "halves", resume=True)
    assert [row["step"] for row in logger.rows if records.EVAL_LOSS in row] == [6]
    whole = load_checkpoint(tmp_path / "whole" / "checkpoint")
    again = load_checkpoint(tmp_path / "halves" / "checkpoint")
    assert again.step == whole.step == 6
    assert again.record[records.EVAL_LOSS] == pytest.approx(whole.record[records.EVAL_LOSS], rel=1e-6)
    assert result.state is TrialState.COMPLETED


def test_resuming_with_another_adapter_is_refused(micro_base: Path, corpus: Path, tmp_path: Path) -> None:
    run(configured(micro_base, corpus, max_steps=3), tmp_path / "run")
    other = configured(micro_base, corpus).model_copy(
        update={"lora": configured(micro_base, corpus).lora.model_copy(update={"r": 8})}
    )
    with pytest.raises(ExperimentError, match="resuming cannot change it"):
        run(other, tmp_path / "run", resume=True)


def test_a_run_that_diverges_says_so_and_leaves_no_adapter(
    micro_base: Path, corpus: Path, tmp_path: Path
) -> None:
    config = configured(micro_base, corpus, learning_rate=1e30, max_grad_norm=None, warmup_ratio=0.0)
    result, _, said = run(config, tmp_path / "run")
    assert result.state is TrialState.DIVERGED
    assert "step" in result.reason
    assert result.reason in said[-1]
    assert result.adapter is None
    assert not (tmp_path / "run" / "adapter").exists()


@pytest.mark.parametrize(
    ("rate", "name"),
    [(5e-5, "lora-r16-a32-lr5e-5"), (1.2e-3, "lora-r16-a32-lr1.2e-3"), (1, "lora-r16-a32-lr1e0")],
)
def test_names_tell_runs_apart(rate: float, name: str) -> None:
    assert run_name(TrialConfig.model_validate({"training": {"learning_rate": rate}})) == name
