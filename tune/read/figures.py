"""Optuna's figures of a study, by short names."""

import warnings
from typing import TYPE_CHECKING

import optuna

from trainable.errors import ConfigError, UserError, nearest

if TYPE_CHECKING:
    import plotly.graph_objects

_KINDS = {
    "history": "plot_optimization_history",
    "curves": "plot_intermediate_values",
    "importance": "plot_param_importances",
    "parallel": "plot_parallel_coordinate",
    "contour": "plot_contour",
    "slice": "plot_slice",
    "timeline": "plot_timeline",
}
_OF_THE_STUDY = ("curves", "timeline")
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
