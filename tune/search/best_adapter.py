"""Chooses the best adapter of a search and fills the experiment's `best/` folder.

adapter/           PEFT's format; its `base_model_name_or_path` loads with `AutoModelForCausalLM`
metrics.json       the metrics record of the step the adapter is from, its trial and its parameters
predictions.jsonl  prompts, predictions, references and scores of the first validation rows
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.actor import ActorHandle

from trainable.checkpoint.manifest import ADAPTER, read_state
from trainable.evaluation import Prediction, write_predictions
from trainable.files import replaced_folder
from tune.store.experiment import METRICS, PREDICTIONS
from tune.store.reader import ExperimentData, TrialView


@dataclass(frozen=True)
class Best:
    """The best adapter of a search.

    Attributes:
        trial: the trial it is from.
        adapter: its folder.
        predictions: what it writes for the first validation rows.
    """

    trial: TrialView
    adapter: Path
    predictions: Sequence[Prediction]


def collect_best(data: ExperimentData, hosts: ActorHandle) -> Best | None:
    """Fill `best/` from the checkpoint with the best objective, and let the adapter predict.

    Args:
        data: the experiment.
        hosts: starts engines, and knows those that run.

    Returns:
        What is in `best/`, or `None` if no trial has a complete checkpoint with a finite objective.
    """
    best = data.best_checkpoint()
    if best is None:
        return None
    trial, checkpoint = best
    state = read_state(checkpoint)
    predictions = _predict(hosts, state["config"], checkpoint, data.config.wandb.num_predictions)
    metrics = {"trial_id": trial.trial_id, "params": dict(trial.params), **state["record"]}
    with replaced_folder(data.store.best) as folder:
        shutil.copytree(checkpoint / ADAPTER, folder / ADAPTER)
        (folder / METRICS).write_text(json.dumps(metrics, indent=2), encoding="utf-8")
        write_predictions(folder / PREDICTIONS, predictions)
    return Best(trial, data.store.best / ADAPTER, predictions)


def _predict(hosts: ActorHandle, config: dict, checkpoint: Path, rows: int) -> list[Prediction]:
    host = ray.get(hosts.any_host.remote())
    return ray.get(host.predict.remote(config, str(checkpoint), rows))
