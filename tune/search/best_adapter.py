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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from cluster.placement import Placement
from trainable import records
from trainable.checkpoint.manifest import ADAPTER
from trainable.errors import ClusterError
from trainable.evaluation import Scored, count_rows, held_out_key, write_predictions
from trainable.host import Identity
from trainable.places import Place, inside
from trainable.stores import local_copy, written_folder
from tune.store.experiment import METRICS, PREDICTIONS, TEST_PREDICTIONS
from tune.store.reader import ExperimentData, TrialView

_ENGINES = 3
"""Engines that may die while they score the best adapter."""


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


def collect_best(
    data: ExperimentData,
    hosts: ActorHandle,
    identity: Identity,
    devices: Callable[[], Placement],
    *,
    final: bool,
) -> Best | None:
    """Fill `best/` from the checkpoint with the best objective, and score the adapter's texts.

    Args:
        data: the experiment.
        hosts: starts engines, and knows those that run.
        identity: what the search's first engine loaded.
        devices: returns the devices of the cluster, for a new engine where none is left.
        final: whether the search is over, so that the test rows are scored.

    Returns:
        What is in `best/`, or `None` if no trial has a complete checkpoint with a finite objective.

    Raises:
        ClusterError: one engine after the other died.
    """
    best_checkpoint = data.best_checkpoint()
    if best_checkpoint is None:
        return None
    trial, checkpoint = best_checkpoint
    state = data.store.read_checkpoint(checkpoint, deep=False)
    scored = _scored(hosts, identity, devices, state["config"], str(checkpoint), final=final)
    best = Best(trial, inside(data.store.best, ADAPTER), scored["val"], scored.get("test"))
    with local_copy(checkpoint) as source, written_folder(data.store.best, last=METRICS) as folder:
        shutil.copytree(source / ADAPTER, folder / ADAPTER)
        metrics = _metrics(best, state["record"]) | {"data_hash": state["data_hash"]}
        (folder / METRICS).write_text(json.dumps(metrics, indent=2), encoding="utf-8")
        write_predictions(folder / PREDICTIONS, best.validation.predictions)
        if best.test is not None:
            write_predictions(folder / TEST_PREDICTIONS, best.test.predictions)
    return best


def _scored(
    hosts: ActorHandle,
    identity: Identity,
    devices: Callable[[], Placement],
    config: dict[str, Any],
    checkpoint: str,
    *,
    final: bool,
) -> dict[str, Scored]:
    """Score the adapter on any engine; another one takes over from one that dies."""
    for _ in range(_ENGINES):
        try:
            host = ray.get(hosts.any_host.remote())
            if host is None:
                host, _ = ray.get(hosts.host.remote(*devices().first_device(), identity))
            scored: dict[str, Scored] = ray.get(host.assess.remote(config, checkpoint, test=final))
            return scored
        except RayActorError as error:
            died = error
    raise ClusterError(
        f"the search is over, but {_ENGINES} engines died while they scored the best adapter: {died}. Its "
        "trials are kept; `loratune resume` scores it again."
    )


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
