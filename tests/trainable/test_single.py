"""A single run: what it leaves, what it tells, and that it goes on exactly where it stopped."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.offline_runs import offline_runs, only_run
from trainable import records
from trainable.checkpoint.tensors import load_checkpoint
from trainable.config import DataConfig, TrialConfig, WandbConfig
from trainable.engine import Engine
from trainable.errors import ExperimentError
from trainable.evaluation import sample_rows
from trainable.records import TrialState
from trainable.single import run_name, run_single
from trainable.tracking import WandBLogger


class FakeLogger:
    """Takes what the W&B logger would; anything else is an error."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.rows: list[dict[str, Any]] = []
        self.checkpoints: list[tuple[int, bool, bool]] = []
        self.tables: list[tuple[str, int]] = []
        self.summary: dict[str, Any] = {}
        self.exit_code = 0
        self.run = None

    def init(self, run_name: str, config: dict[str, Any], *, run_id: str | None) -> None:
        assert run_id is None
        assert self.name is None
        assert config["lora"]
        self.name = run_name

    def describe_model(self, description: dict[str, Any]) -> None:
        assert description["trainable_parameters"] > 0

    def use_data(self, data: DataConfig, data_hash: str) -> None:
        assert data.train.exists()
        assert len(data_hash) == 64

    def log_record(self, record: dict[str, Any]) -> None:
        self.rows.append(record)

    def log_metrics(self, metrics: dict[str, Any], step: int) -> None:
        self.rows.append({"step": step, **metrics})

    def log_training_metrics(self, *, step: int, **metrics: float) -> None:
        self.rows.append({"step": step, **metrics})

    def log_predictions(self, rows: list[Any], step: int, key: str) -> None:
        self.tables.append((key, len(rows)))

    def log_checkpoint(self, directory: Path, name: str, *, is_best: bool, is_last: bool) -> None:
        assert name == "run-adapter" or directory.parent.name != "run"
        self.checkpoints.append((load_checkpoint(directory).step, is_best, is_last))

    def summarize(self, values: dict[str, Any]) -> None:
        self.summary = values

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


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


def sampled_prompts(path: Path) -> list[str]:
    """Return the prompts of the sample that texts are generated for."""
    rows = json.loads(path.read_text())
    return [rows[number]["prompt"] for number in sample_rows(len(rows), 3)]


def test_what_a_run_leaves_and_tells(micro_base: Path, corpus: Path, tmp_path: Path) -> None:
    result, logger, said = run(configured(micro_base, corpus), tmp_path / "run")
    assert result.state is TrialState.COMPLETED
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "adapter",
        "best",
        "checkpoint",
        "metrics.json",
        "predictions.jsonl",
        "val_predictions.jsonl",
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
    assert len(result.predictions) == 3
    assert logger.tables == [("test/predictions", 3)]
    # What a search, or a sweep, is guided by is never of the held-out rows.
    table = sampled_prompts(corpus / "val.json")
    assert [one["prompt"] for one in logger.rows[-2][records.PREDICTIONS]] == table
    assert "eval/overall_score" in logger.rows[-2]
    assert all(key.startswith("test/") for key in logger.rows[-1] if "/" in key)
    assert logger.name == "lora-r4-a8-lr5e-3"
    assert [(step, is_last) for step, _, is_last in logger.checkpoints] == [(3, False), (6, True)]
    assert [is_best for _, is_best, _ in logger.checkpoints] == [True, best[records.STEP] == 6]
    assert logger.summary == {
        "trial_state": "completed",
        "reason": None,
        "best/eval/loss": best[records.EVAL_LOSS],
        "best/step": best[records.STEP],
    }
    assert logger.exit_code == 0
    assert said[-1].startswith("step 6/6")


def test_a_run_says_how_its_rows_were_read(micro_base: Path, corpus: Path, tmp_path: Path) -> None:
    config = configured(micro_base, corpus)
    short = config.data.model_copy(update={"max_length": 48})
    _, _, said = run(config.model_copy(update={"data": short}), tmp_path / "run")
    lines = [line for line in said if line.startswith("val: ")]
    assert re.fullmatch(r"val: 10 rows, \d+ target tokens, 10 rows truncated to data.max_length", lines[0])
    assert lines[1:] == [
        "val: 10 rows read as {prompt, response}",
        "val: columns not read: input, target, location, datetime",
    ]


def test_texts_at_every_evaluation_are_of_the_validation_rows_and_at_the_end_of_the_test_rows(
    micro_base: Path, corpus: Path, tmp_path: Path
) -> None:
    config = configured(micro_base, corpus)
    always = config.evaluation.model_copy(update={"text_metrics": "always"})
    result, logger, _ = run(config.model_copy(update={"evaluation": always}), tmp_path / "run")
    evaluated = [row for row in logger.rows if records.EVAL_LOSS in row]
    prompts = [[one["prompt"] for one in row[records.PREDICTIONS]] for row in evaluated]
    table = sampled_prompts(corpus / "val.json")
    assert prompts == [table, table]
    assert all("nlg/bleu_score" in row for row in evaluated)
    assert logger.tables == [("test/predictions", 3)]
    assert [one.prompt for one in result.predictions] != table
    assert records.PREDICTIONS not in load_checkpoint(tmp_path / "run" / "checkpoint").record


def test_a_tracked_run_has_all_that_the_configuration_asks_for(
    micro_base: Path, corpus: Path, tmp_path: Path
) -> None:
    config = configured(micro_base, corpus)
    section = {"mode": "offline", "log_freq": 2, "watch_freq": 2, "num_predictions": 2}
    config = config.model_copy(update={"wandb": WandbConfig(**section, save_code=False)})
    with WandBLogger(config.wandb, directory=tmp_path, say=lambda _: None) as logger:
        result = run_single(config, tmp_path / "run", logger, lambda _: None)
    told = only_run(tmp_path)
    rows, summary = told.rows, told.told["summary"]
    assert [row["step"] for row in rows if "gradients/q_proj.lora_A._type" in row] == [2, 4, 6]
    histogram = summary["parameters/q_proj.lora_A"]
    assert (histogram["_type"], len(histogram["bins"]), len(histogram["values"])) == ("histogram", 65, 64)
    assert [row["step"] for row in rows if "train/loss" in row] == [2, 3, 4, 6]
    assert summary["predictions"]["nrows"] == 2
    assert summary["nlg/bleu_score"] == {"max": result.test["test/nlg/bleu_score"]}
    assert summary["test/loss"] == result.test["test/loss"]
    assert summary["best/eval/loss"] == result.best[records.EVAL_LOSS]
    assert summary["trial_state"] == "completed"
    assert "LoRA r=4, alpha=8 on 14 layers" in told.told["config"]["model_summary"]["text"]
    versions = told.artifacts_of("model")
    assert {one["name"] for one in versions} == {"run-adapter"}
    assert [one["metadata"]["step"] for one in versions] == [3, 6]
    assert "final" in versions[1]["aliases"]
    assert sum("best" in one["aliases"] for one in versions) >= 1
    wanted = {"rank": 4, "alpha": 8, "base_model": str(micro_base)}
    assert versions[0]["metadata"] == versions[0]["metadata"] | wanted
    assert len(versions[0]["metadata"]["data_hash"]) == 64
    assert versions[0]["metadata"]["metrics"]["eval/loss"] > 0
    assert versions[0]["files"] == ["adapter_config.json", "adapter_model.safetensors"]
    (data,) = told.artifacts_of("dataset")
    assert data["use_after_commit"]
    assert set(data["metadata"]) >= {"train", "val", "test", "data_hash"}


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


def test_a_run_that_goes_on_is_one_run_in_wandb_with_each_step_once(
    micro_base: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(micro_base, corpus, max_steps=9)
    section = WandbConfig(mode="offline", log_freq=2, watch_model=False, save_code=False)
    config = config.model_copy(update={"wandb": section})
    genuine = Engine.step

    def stop_after_five(self: Engine, names: Any) -> None:
        if self.tenant("run").step == 5:
            raise KeyboardInterrupt
        genuine(self, names)

    def track(**options: Any) -> None:
        with WandBLogger(config.wandb, directory=tmp_path, say=lambda _: None) as logger:
            run_single(config, tmp_path / "run", logger, lambda _: None, **options)

    monkeypatch.setattr(Engine, "step", stop_after_five)
    with pytest.raises(KeyboardInterrupt):
        track()
    monkeypatch.setattr(Engine, "step", genuine)
    # The second part's folder is named by the second that it began in.
    (first,) = offline_runs(tmp_path)
    first.path.parent.rename(
        first.path.parent.with_name("offline-run-20200101_000000-" + first.run["run_id"])
    )
    track(resume=True)
    parts = offline_runs(tmp_path)
    assert len({part.run["run_id"] for part in parts}) == 1
    trained = [[row["step"] for row in part.rows if "train/loss" in row] for part in parts]
    assert trained == [[2, 3, 4], [6, 8, 9]]
    assert [part.told.get("exit_code", part.told.get("exitcode")) for part in parts][-1] == 0


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
    result, logger, said = run(config, tmp_path / "run")
    assert result.state is TrialState.DIVERGED
    assert logger.exit_code == 1
    assert logger.summary["trial_state"] == "diverged"
    assert logger.summary["reason"] == result.reason
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
