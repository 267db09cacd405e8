"""A W&B sweep file as one layer of a search's configuration."""

from pathlib import Path

from search_spaces.wandb_sweep import read_sweep
from trainable.config import Layer
from trainable.errors import SpaceError
from trainable.evaluation.catalogue import Catalogue
from tune.config import Config


def sweep_layer(path: Path, base: Config) -> Layer:
    """Read a sweep file.

    W&B's hyperband counts how often a metric is logged; here that is an evaluation, so its `min_iter` becomes
    a share of the base configuration's steps. Without `early_terminate` nothing is stopped, as in W&B.

    Args:
        path: the sweep's.
        base: what the sweep does not say.

    Raises:
        SpaceError: the file is wrong, or says what a search cannot do.
    """
    sweep = read_sweep(path)
    values = {"search.space": dict(sweep.space), "search.scheduler": "none", **sweep.settings}
    metric = str(values.get("search.metric", base.search.metric))
    if Catalogue.of(base.evaluation.metrics).get(metric).needs_texts:
        values["evaluation.text_metrics"] = "always"
    if sweep.first_evaluation is not None:
        if base.training.max_steps is None:
            raise SpaceError(
                f"sweep '{path}': early_terminate needs the number of steps: give --training.max_steps."
            )
        first_step = sweep.first_evaluation * base.evaluation.eval_every_steps
        values |= {
            "search.scheduler": "asha",
            "search.grace_ratio": min(1.0, first_step / base.training.max_steps),
            "search.reduction_factor": sweep.reduction_factor,
        }
    return Layer(f"sweep {path}", values)
