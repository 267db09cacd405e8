"""What a search reaches on real forecasts, beside the floor that any tuned model must beat.

    python -m benchmarks.weathergov SOURCE [--trials 8] [--max_steps 240] [--rows N]

SOURCE holds the three splits of WeatherGov (see `loratune data weathergov`). The floor copies the text of
the nearest training record, by cosine similarity of the words of the inputs: no model at all. Floor, untuned
base and best adapter are scored on the same test rows: all, or a fixed random sample of N. Each figure has
the number of rows it rests on beside it. Writes `benchmarks/results/weathergov.json`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import write_result
from trainable.checkpoint.tensors import load_checkpoint
from trainable.config import TrialConfig
from trainable.data import prepare
from trainable.engine import Engine
from trainable.evaluation import Prediction, Scored, count_rows, metrics_of, sample_rows, score_rows
from trainable.model import load_base
from tune.config import Config
from tune.store.experiment import ExperimentStore

CONFIG = Path("config/quickstart.yaml")


def main() -> None:
    """Convert, search, score, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--max_steps", type=int, default=240)
    parser.add_argument("--rows", type=int)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = _run(wanted, Path(folder))
    write_result("weathergov", found)
    print(json.dumps(found, indent=2))


def _run(wanted: argparse.Namespace, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", "from tune.cli import main; main()"]
    subprocess.run([*command, "data", "weathergov", str(wanted.source), str(folder)], check=True)
    flags = {
        "config": CONFIG,
        "name": "weathergov",
        "results_dir": folder / "results",
        "trials": wanted.trials,
        "data.train": folder / "train.json",
        "data.val": folder / "val.json",
        "data.test": folder / "test.json",
        "training.max_steps": wanted.max_steps,
        "evaluation.eval_every_steps": wanted.max_steps // 8,
        "evaluation.max_rows": 120,
        "evaluation.text_metrics": "never",
        "wandb.mode": "disabled",
    }
    began = time.perf_counter()
    words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
    subprocess.run([*command, "search", *words], check=True)
    seconds = time.perf_counter() - began
    experiment = folder / "results" / "weathergov"
    best = json.loads((experiment / "best" / "metrics.json").read_text())
    return {
        "search": {
            "trials": wanted.trials,
            "max_steps": wanted.max_steps,
            "seconds": round(seconds, 1),
            "best_params": best["params"],
            "best_validation_loss": best["eval/loss"],
            "validation_rows": best["eval/rows"],
        },
        "copy_the_nearest": _nearest(folder, wanted.rows),
        **_models(experiment, best["trial_id"], wanted.rows),
    }


def _nearest(folder: Path, limit: int | None) -> dict[str, Any]:
    train, test = (json.loads((folder / f"{name}.json").read_text()) for name in ("train", "test"))
    test = [test[row] for row in sample_rows(len(test), limit)]
    words = {word: n for n, word in enumerate({w for row in train for w in row["input"].split()})}

    def vectors(part: list[dict[str, str]]) -> np.ndarray:
        counts = np.zeros((len(part), len(words)), dtype=np.float32)
        for number, row in enumerate(part):
            for word, count in Counter(row["input"].split()).items():
                if word in words:
                    counts[number, words[word]] = count
        return counts / np.linalg.norm(counts, axis=1, keepdims=True).clip(1e-9)

    nearest = (vectors(test) @ vectors(train).T).argmax(axis=1)
    return _scores([train[int(n)]["target"] for n in nearest], [row["target"] for row in test])


def _models(experiment: Path, trial_id: str, limit: int | None) -> dict[str, dict[str, Any]]:
    trial = ExperimentStore(experiment).read_config().config.trial()
    base = load_base(trial.model, torch.device("cpu"))
    data = prepare(trial.data, base.tokenizer, tokenizer_id=base.name_or_path)
    engine = Engine(base, data)
    checkpoints = [load_checkpoint(path.parent) for path in (experiment / trial_id).glob("*/manifest.json")]
    best = min(checkpoints, key=lambda checkpoint: checkpoint.record["eval/loss"])
    engine.join("untuned", TrialConfig.model_validate(best.config.model_dump()))
    engine.join("best adapter", best.config, best)
    names = ("untuned", "best adapter")
    texts = engine.generate(dict.fromkeys(names, sample_rows(len(data.test), limit)), data.test)
    losses = engine.evaluate(names, data.test)
    return {
        name: {
            "loss": losses[name]["eval/loss"],
            "loss_rows": losses[name]["eval/rows"],
            **_scores(
                [text.text for text in texts[name]], [data.test.target(text.row) for text in texts[name]]
            ),
        }
        for name in names
    }


def _scores(predictions: list[str], references: list[str]) -> dict[str, Any]:
    """Return each metric as the value and the rows that it rests on."""
    evaluation = Config.assemble(CONFIG).evaluation
    rows = score_rows(
        [Prediction("", *texts) for texts in zip(predictions, references, strict=True)], evaluation
    )
    scored = Scored(metrics_of(rows, evaluation), rows)
    counts = count_rows(scored)
    return {key: {"value": round(scored.metrics[key], 4), "rows": count} for key, count in counts.items()}


if __name__ == "__main__":
    main()
