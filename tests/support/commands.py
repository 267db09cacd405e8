"""Runs `loratune` as a person would, as a process of its own, or in this one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna

from trainable.objective import Objective
from tune.cli import main
from tune.store.study import StudyStore

COMMAND = [sys.executable, "-c", "from tune.cli import main; main()"]


def flags(micro_base: Path, corpus: Path, results: Path, name: str) -> list[str]:
    return [
        *("search", "--name", name, "--results_dir", str(results), "--seed", "3", "--trials", "6"),
        *("--model.name", str(micro_base), "--data.train", str(corpus / "train.json")),
        *("--data.val", str(corpus / "val.json"), "--data.test", str(corpus / "test.json")),
        *("--training.max_steps", "8", "--evaluation.eval_every_steps", "2", "--evaluation.text_rows", "2"),
        *(
            "--evaluation.max_new_tokens",
            "8",
            "--search.space",
            "weather_quick",
            "--wandb.num_predictions",
            "3",
            "--wandb.watch_freq",
            "2",
        ),
    ]


def loratune(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )


def trials_of(results: Path, name: str) -> list[dict[str, Any]]:
    told = loratune("trials", name, "--results_dir", str(results), "--json", folder=results)
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def study_of(experiment: Path) -> optuna.Study:
    """Return the study in an experiment's journal."""
    store = StudyStore.open(experiment / "study.journal", experiment.name, Objective("eval/loss", "min"))
    assert store is not None
    return store.study


def run_here(*words: str) -> int:
    """Run `loratune` in this process and the current folder; returns its exit code."""
    before, sys.argv = sys.argv, ["loratune", *words]
    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    finally:
        sys.argv = before
    return 0
