"""Chooses the best adapter of a search and fills the experiment's `best/` folder.

    adapter/                PEFT's format; its `base_model_name_or_path` loads with `AutoModelForCausalLM`
    metrics.json            the metrics record of the step the adapter is from, its trial and its parameters,
                            the metrics of the test rows under `test/`, under `n` the rows of each metric,
                            and the hash of the data
    predictions.jsonl       the validation rows that the text metrics rest on, with texts and scores
    test_predictions.jsonl  the same of the test rows

The test rows are scored once, for the adapter that was chosen by the validation rows, and only when the
search is over: one that was interrupted has not chosen yet.
"""

import json
import shutil
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle

from trainable import records
from trainable.checkpoint.manifest import ADAPTER
from trainable.evaluation import Scored, count_rows, held_out_key, write_predictions
from trainable.places import Place, inside
from trainable.stores import local_copy, written_folder
from tune.store.experiment import METRICS, PREDICTIONS, TEST_PREDICTIONS
from tune.store.reader import ExperimentData, TrialView


@dataclass(frozen=True)
class Best:
    """The best adapter of a search.

    Attributes:
        trial: the trial it is from.
        adapter: its folder's place.
        validation: the texts for the sample of validation rows, and their metrics.
        test: the metrics of the test rows, `eval/loss` included, and their texts; `None` if they were not
            scored.
    """

    trial: TrialView
    adapter: Place
    validation: Scored
    test: Scored | None


def collect_best(data: ExperimentData, hosts: ActorHandle, *, final: bool) -> Best | None:
    """Fill `best/` from the checkpoint with the best objective, and score the adapter's texts.

    Args:
        data: the experiment.
        hosts: starts engines, and knows those that run.
        final: whether the search is over, so that the test rows are scored.

    Returns:
        What is in `best/`, or `None` if no trial has a complete checkpoint with a finite objective.
    """
    best_checkpoint = data.best_checkpoint()
    if best_checkpoint is None:
        return None
    trial, checkpoint = best_checkpoint
    state = data.store.read_checkpoint(checkpoint, deep=False)
    host = ray.get(hosts.any_host.remote())
    scored = ray.get(host.assess.remote(state["config"], str(checkpoint), test=final))
    best = Best(trial, inside(data.store.best, ADAPTER), scored["val"], scored.get("test"))
    with local_copy(checkpoint) as source, written_folder(data.store.best, last=METRICS) as folder:
        shutil.copytree(source / ADAPTER, folder / ADAPTER)
        metrics = _metrics(best, state["record"]) | {"data_hash": state["data_hash"]}
        (folder / METRICS).write_text(json.dumps(metrics, indent=2), encoding="utf-8")
        write_predictions(folder / PREDICTIONS, best.validation.predictions)
        if best.test is not None:
            write_predictions(folder / TEST_PREDICTIONS, best.test.predictions)
    return best


def _metrics(best: Best, record: dict[str, Any]) -> dict[str, Any]:
    """Return the content of `metrics.json`.

    The text metrics are those of the texts that are in the folder; most records have none of their own.
    """
    metrics: dict[str, Any] = {"trial_id": best.trial.trial_id, "params": dict(best.trial.params)}
    metrics |= record | best.validation.metrics
    loss = {key: record[key] for key in (records.EVAL_LOSS, records.EVAL_ROWS) if key in record}
    rows = count_rows(Scored(best.validation.metrics | loss, best.validation.predictions))
    if best.test is not None:
        metrics |= {held_out_key(key): value for key, value in best.test.metrics.items()}
        rows |= {held_out_key(key): count for key, count in count_rows(best.test).items()}
    return metrics | {"n": rows}
