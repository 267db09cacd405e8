"""What a search leaves on the terminal: leaderboard, predictions, where the adapter is, what to type next."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from rich.console import Group, RenderableType

from trainable.tracking.run import resolve_mode, sync_command
from tune.config import Config
from tune.experiment import Finished
from tune.read import tables as report
from tune.store.reader import leaderboard

_PREDICTIONS_SHOWN = 3


def farewell(finished: Finished, config: Config) -> RenderableType:
    """Return all that a person wants to know when a search is over."""
    metric, mode = config.search.metric, config.search.mode
    best = finished.best
    name = shlex.quote(str(finished.directory.name))
    elsewhere = config.search.results_dir != Config().search.results_dir
    where = f" --results_dir {shlex.quote(str(config.search.results_dir))}" if elsewhere else ""
    loratune, wandb = (_as_typed(program) for program in ("loratune", "wandb"))
    commands = [(f"{loratune} resume {name}{where}", "go on with it")] if finished.interrupted else []
    commands += [
        (f"{loratune} trials {name}{where}", "every trial; --json for programs"),
        (f"{loratune} status {name}{where}", "how far the search is, and its best"),
    ]
    wandb_note = None
    if (kind := resolve_mode(config.wandb)) == "offline":
        wandb_note = "offline: no API key, or WANDB_MODE=offline"
        sync = sync_command(finished.directory).replace("wandb", wandb, 1)
        commands.append((sync, f"send the runs to W&B (after: {wandb} login)"))
    elif kind == "online":
        wandb_note = f"group '{finished.directory.name}' in project '{config.wandb.project}'"
    parts: list[RenderableType] = [
        "",
        report.leaderboard(leaderboard(finished.trials, metric, mode), metric, mode),
        "",
    ]
    if best:
        parts += [report.predictions(best.predictions[:_PREDICTIONS_SHOWN]), ""]
    summary = report.summary(
        best.trial if best else None,
        metric,
        adapter=best.adapter if best else None,
        wandb_note=wandb_note,
        commands=commands,
    )
    return Group(*parts, summary)


def _as_typed(program: str) -> str:
    """Return what a person types for a program of this environment, which need not be on the PATH."""
    here = Path(sys.executable).parent / program
    if shutil.which(program) == str(here) or not here.exists():
        return program
    return os.path.relpath(here)
