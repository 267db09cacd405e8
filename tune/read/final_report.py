"""What a search leaves on the terminal: leaderboard, predictions, where the adapter is, what to type next."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from rich.console import Group, RenderableType

from trainable.places import absolute, parent_of, shown
from trainable.tracking.local import sync_command
from trainable.tracking.run import resolve_mode
from tune.config import Config
from tune.read import tables
from tune.read.format import scores_text
from tune.search.best_adapter import Best
from tune.store.reader import ExperimentData

_PREDICTIONS_SHOWN = 3


def final_report(data: ExperimentData, best: Best | None, *, interrupted: bool) -> RenderableType:
    """Return all that a person wants to know when a search is over.

    Args:
        data: the experiment.
        best: the best adapter; `None` if no trial has one.
        interrupted: whether the search ended before it was finished.
    """
    config, results = data.config, parent_of(data.store.place)
    name = shlex.quote(data.store.name)
    elsewhere = results != absolute(Config().search.results_dir)
    where = f" --results_dir {shlex.quote(shown(results))}" if elsewhere else ""
    loratune, wandb = (_as_typed(program) for program in ("loratune", "wandb"))
    commands = [(f"{loratune} resume {name}{where}", "resume it")] if interrupted else []
    commands += [
        (f"{loratune} trials {name}{where}", "every trial; --json for programs"),
        (f"{loratune} status {name}{where}", "how far the search is, and its best"),
    ]
    wandb_note = None
    if (kind := resolve_mode(config.wandb)) == "offline":
        wandb_note = "offline: no API key, or WANDB_MODE=offline"
        sync = sync_command(data.store.folder).replace("wandb", wandb, 1)
        commands.append((sync, f"send the runs to W&B (after: {wandb} login)"))
    elif kind == "online":
        wandb_note = f"group '{config.search.name}' in project '{config.wandb.project}'"
    objective, *others = data.config.search.objectives
    parts: list[RenderableType] = [
        "",
        tables.leaderboard(data.leaderboard(), objective, others=others),
        "",
    ]
    if best and best.validation.predictions:
        parts += [tables.predictions(best.validation.predictions[:_PREDICTIONS_SHOWN]), ""]
    summary = tables.summary(
        best.trial if best else None,
        data.objective,
        adapter=shown(best.adapter) if best else None,
        test=scores_text(best.test.metrics) if best and best.test else None,
        wandb_note=wandb_note,
        commands=commands,
    )
    return Group(*parts, summary)


def _as_typed(program: str) -> str:
    """Return what a person types for a program of this environment, which need not be on the PATH."""
    here = Path(sys.executable).parent / program
    if shutil.which(program) == str(here) or not here.exists():
        return program
    below = os.path.relpath(here)
    return str(here) if below.startswith(os.pardir) else below
