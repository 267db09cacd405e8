"""The command line's contract: exit codes, one readable line for a mistake, nothing heavy at the start."""

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tune.cli import main

START = "from tune.cli import main; main()"


def loratune(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", START, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def test_starting_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom tune.cli import app\n"
        "heavy = {'torch', 'ray', 'wandb', 'transformers', 'optuna', 'pyarrow', 'sqlalchemy'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.stderr == ""


def test_a_trials_process_has_no_torch(tmp_path: Path) -> None:
    code = "import sys, trainable.trial\nsys.exit('torch' if 'torch' in sys.modules else 0)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr


def test_help_names_every_command(tmp_path: Path) -> None:
    done = loratune("--help", folder=tmp_path)
    assert done.returncode == 0
    for command in ("search", "train", "trials", "status", "data", "config"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["search", "--lora.rr", "3"], "unknown key 'lora.rr'. Did you mean 'lora.r'?"),
        (["search", "--lora.r", "0"], "lora.r = 0 is not allowed"),
        (["search", "--trials", "0"], "search.num_trials = 0 is not allowed"),
        (["search", "--config", "none.yaml"], "'none.yaml' does not exist"),
        (["search", "--data.train", "none.json"], "'none.json' does not exist"),
        (["search", "--data.train", "empty.json"], "no rows"),
        (["search", "--data.train", "targetless.json"], "row 2"),
        (["search", "--model.name", "builtin:big"], "Allowed: builtin:tiny"),
        (["search", "--model.name", "./nowhere"], "model.name"),
        (["search", "--search.space", "space.yaml"], "low 1.0 must be below high 0.1"),
        (["search", "--evaluation.metrics", "nlq"], "unknown family 'nlq'"),
        (["search", "--name", "taken"], "experiment 'taken' exists already"),
        (["train", "--train_data", "none.json"], "'none.json' does not exist"),
        (["trials", "nobody"], "experiment 'nobody' does not exist"),
        (["status", "nobody"], "experiment 'nobody' does not exist"),
        (["data", "weathergov", ".", "out"], "train.jsonl"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    told: str,
) -> None:
    row = {"input": "a", "target": "b"}
    (tmp_path / "good.json").write_text(json.dumps([row]))
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "targetless.json").write_text(json.dumps([row, {"input": "a"}]))
    (tmp_path / "space.yaml").write_text("learning_rate: {type: log_uniform, low: 1, high: 0.1}")
    (tmp_path / "results" / "taken").mkdir(parents=True)
    if words[0] in ("search", "train") and "--data.train" not in words and "--train_data" not in words:
        words = [*words, "--data.train", "good.json"]
    if words[0] == "search":
        words = [*words, "--data.val", "good.json", "--data.test", "good.json"]
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["loratune", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("loratune: ")
    assert told in lines[0]
    assert [
        path for path in sorted(tmp_path.rglob("*")) if path not in before and path.name != "models"
    ] == []


@pytest.mark.ray
def test_a_cluster_without_a_gpu_leaves_the_name_free(tmp_path: Path, micro_base: Path, corpus: Path) -> None:
    words = ["search", "--name", "mine", "--model.name", str(micro_base), "--engine.device", "cuda"]
    for name in ("train", "val", "test"):
        words += [f"--data.{name}", str(corpus / f"{name}.json")]
    done = loratune(*words, folder=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "no GPU. Set engine.device to auto or cpu" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_the_model_lacks_is_told_before_anything_starts(
    tmp_path: Path, micro_base: Path, corpus: Path
) -> None:
    words = ["search", "--model.name", str(micro_base), "--lora.target_modules", "q_prj"]
    for name in ("train", "val", "test"):
        words += [f"--data.{name}", str(corpus / f"{name}.json")]
    done = loratune(*words, folder=tmp_path)
    assert done.returncode == 2
    assert "'q_prj' is no linear layer of this model. Did you mean 'q_proj'?" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_resolved_configuration_is_shown_with_its_sources(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("lora: {r: 4}")
    done = loratune("config", "show", "--config", "own.yaml", "--learning_rate=1e-3", folder=tmp_path)
    assert done.returncode == 0
    shown = yaml.safe_load(done.stdout)
    assert shown["lora"]["r"] == 4
    assert shown["training"]["learning_rate"] == 1e-3
    assert "# lora.r: own.yaml" in done.stdout
    assert "# training.learning_rate: flag" in done.stdout
    assert "# wandb.mode: environment" in done.stdout


def test_the_weather_corpus_is_made(tmp_path: Path) -> None:
    words = ["data", "weather", "made", "--train", "5", "--val", "2", "--test", "2", "--seed", "1"]
    done = loratune(*words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "made" / "train.json").read_text())
    assert len(rows) == 5
    assert {"input", "target", "location", "datetime"} <= set(rows[0])


def test_a_full_disk_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "results.jsonl")

    monkeypatch.setattr("tune.store.experiment.ExperimentStore.find", full)
    monkeypatch.setattr(sys, "argv", ["loratune", "trials", "mine"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("loratune: the disk is full (results.jsonl)")
    assert "loratune resume NAME" in told
    assert told.count("\n") == 1
