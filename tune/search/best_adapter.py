"""The experiment's `best/` folder: the best adapter, what it scored, and what it writes.

    adapter/           PEFT's format; its `base_model_name_or_path` loads with `AutoModelForCausalLM`
    metrics.json       the metrics record of the step the adapter is from, its trial and its parameters
    predictions.jsonl  prompts, predictions, references and scores of the first validation rows

The folder is put together under another name and renamed, so it is whole or not there.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.actor import ActorHandle

from trainable.checkpoint.manifest import MANIFEST, read_state
from trainable.errors import CheckpointError
from trainable.evaluation import Prediction, write_predictions
from trainable.outcome import objective
from tune.config import Config
from tune.store.reader import TrialView, leaderboard

BEST = "best"


@dataclass(frozen=True)
class Best:
    """The best adapter of a search.

    Attributes:
        trial: whose it is.
        adapter: its folder.
        predictions: what it writes for the first validation rows.
    """

    trial: TrialView
    adapter: Path
    predictions: Sequence[Prediction]


def collect_best(
    directory: Path, trials: Sequence[TrialView], config: Config, hosts: ActorHandle
) -> Best | None:
    """Fill `best/` from the checkpoint with the best objective, and let the adapter predict.

    Args:
        directory: the experiment's.
        trials: all of it.
        config: the experiment's.
        hosts: where an engine can be had.

    Returns:
        What is in `best/`, or `None` if no trial has a whole checkpoint with a finite objective.
    """
    metric, mode = config.search.metric, config.search.mode
    for trial in leaderboard(trials, metric, mode):
        if (checkpoint := _best_checkpoint(directory / trial.trial_id, metric, mode)) is None:
            continue
        predictions = _predict(hosts, checkpoint, config)
        temporary = directory / f".{BEST}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(checkpoint / "adapter", temporary / "adapter")
        told = {"trial_id": trial.trial_id, "params": dict(trial.params), **read_state(checkpoint)["record"]}
        (temporary / "metrics.json").write_text(json.dumps(told, indent=2), encoding="utf-8")
        write_predictions(temporary / "predictions.jsonl", predictions)
        shutil.rmtree(directory / BEST, ignore_errors=True)
        temporary.rename(directory / BEST)
        return Best(trial, directory / BEST / "adapter", predictions)
    return None


def _best_checkpoint(folder: Path, metric: str, mode: str) -> Path | None:
    """Return the trial's whole checkpoint with the best objective."""
    found: list[tuple[float, Path]] = []
    for manifest in sorted(folder.glob(f"checkpoint_*/{MANIFEST}")):
        try:
            value = objective(read_state(manifest.parent)["record"], metric)
        except CheckpointError:
            continue
        if value is not None:
            found.append((value if mode == "min" else -value, manifest.parent))
    return min(found)[1] if found else None


def _predict(hosts: ActorHandle, checkpoint: Path, config: Config) -> list[Prediction]:
    host = ray.get(hosts.any_host.remote())
    trial, rows = read_state(checkpoint)["config"], config.wandb.num_predictions
    return ray.get(host.predict.remote(trial, str(checkpoint), rows))
