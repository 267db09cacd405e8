"""Optuna's figures of a study, by short names."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import optuna

from trainable.errors import ConfigError, UserError, nearest
from trainable.objective import Objective
from tune.store.reader import TrialView

if TYPE_CHECKING:
    import plotly.graph_objects

PARETO = "pareto"
_KINDS = {
    "history": "plot_optimization_history",
    "curves": "plot_intermediate_values",
    "importance": "plot_param_importances",
    "parallel": "plot_parallel_coordinate",
    "contour": "plot_contour",
    "slice": "plot_slice",
    "timeline": "plot_timeline",
    PARETO: "plot_pareto_front",
}
_OF_THE_STUDY = ("curves", "timeline", PARETO)
"""Figures whose axis is not the objective."""


def figure(study: optuna.Study, kind: str, metric: str) -> "plotly.graph_objects.Figure":
    """Return a figure.

    Args:
        study: Optuna's.
        kind: one of the names above.
        metric: what the axis of the objective is called.

    Raises:
        ConfigError: there is no such figure.
        UserError: plotly is not installed, or there is nothing to draw yet.
    """
    if kind not in _KINDS:
        raise ConfigError(
            f"there is no figure '{kind}'.{nearest(kind, _KINDS)} Allowed: {', '.join(sorted(_KINDS))}."
        )
    if not optuna.visualization.is_available():
        raise UserError("figures need plotly: pip install 'loratune[plots]'.")
    if not study.get_trials(deepcopy=False):
        raise UserError(f"the figure '{kind}' cannot be drawn yet: no trial has been tried.")
    draw = getattr(optuna.visualization, _KINDS[kind])
    options = {} if kind in _OF_THE_STUDY else {"target_name": metric}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return draw(study, **options)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"the figure '{kind}' cannot be drawn yet: {error}") from None


def pareto_study(trials: Sequence[TrialView], objectives: Sequence[Objective]) -> optuna.Study:
    """Return a study in memory that has each trial's value of every objective, at its best by the first.

    Raises:
        UserError: there are not two or three objectives.
    """
    if len(objectives) not in (2, 3):
        raise UserError(
            f"the figure '{PARETO}' shows two or three objectives, and the search has {len(objectives)}."
        )
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(directions=[objective.optuna_direction for objective in objectives])
        study.set_metric_names([objective.metric for objective in objectives])
    for trial in trials:
        values = [objective.value(trial.best_metrics) for objective in objectives]
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            attributes = {"trial": trial.number, **trial.params}
            study.add_trial(optuna.trial.create_trial(values=known, user_attrs=attributes))
    return study
