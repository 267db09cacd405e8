"""`loratune search` and `loratune resume`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from trainable.config import Layer
from trainable.config.layers import environment_layer, flag_layer
from trainable.errors import ConfigError
from tune.cli.options import (
    DOTTED,
    EXIT_INTERRUPTED,
    EXIT_NO_TRIAL,
    ConfigFile,
    ExperimentName,
    NoWandb,
    ResultsDir,
    find,
    option_layer,
)
from tune.config import Config, StoredConfig
from tune.read import terminal

if TYPE_CHECKING:
    from tune.experiment import SearchResult

SEARCH = RESUME = DOTTED

WandbProject = Annotated[str | None, typer.Option("--wandb_project", help="W&B project.")]


def search(
    context: typer.Context,
    config: ConfigFile = None,
    name: Annotated[str | None, typer.Option(help="The experiment's name; also its W&B group.")] = None,
    trials: Annotated[int | None, typer.Option(help="Trials to try.")] = None,
    results_dir: ResultsDir = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampler and of every trial.")] = None,
    sweep: Annotated[Path | None, typer.Option("--sweep", help="A W&B sweep file to search by.")] = None,
    wandb_project: WandbProject = None,
    no_wandb: NoWandb = False,
) -> None:
    """Search for the best LoRA configuration."""
    own = option_layer(
        {
            "search.name": name,
            "search.num_trials": trials,
            "search.results_dir": results_dir,
            "search.seed": seed,
            "training.seed": seed,
            "wandb.project": wandb_project,
            "wandb.mode": "disabled" if no_wandb else None,
        }
    )
    below: list[Layer] = []
    if sweep is not None:
        from tune.search.wandb_sweep import sweep_layer

        below.append(sweep_layer(sweep, Config.assemble(config, context.args)))
    resolved = Config.assemble(config, context.args, own, below=below)
    from tune.experiment import run

    console = terminal.console()
    _finish(run(resolved, console), console)


def resume(
    context: typer.Context,
    experiment: ExperimentName,
    config: ConfigFile = None,
    trials: Annotated[str | None, typer.Option(help="Trials in all; +50 for 50 more.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed trials again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    results_dir: ResultsDir = None,
    wandb_project: WandbProject = None,
    no_wandb: NoWandb = False,
) -> None:
    """Resume a search that was interrupted, or extend one that is finished."""
    store = find(experiment, results_dir, config)
    stored = store.read_config()
    console = terminal.console()
    for note in stored.notes:
        console.print(note)
    own = {
        "search.num_trials": _trials_wanted(trials, stored.config.search.num_trials),
        "wandb.project": wandb_project,
        "wandb.mode": "disabled" if no_wandb else None,
    }
    new = _changed(stored, [_wandb_mode(), flag_layer(context.args, Config), option_layer(own)])
    from tune.experiment import check_resumption
    from tune.experiment import resume as run_on
    from tune.read import tables
    from tune.search.resume import plan

    resumption = plan(store, stored.config, new, retry_failed=retry_failed)
    check_resumption(resumption)
    console.print(tables.plan(resumption))
    if not dry_run:
        _finish(run_on(resumption, console), console)


def _changed(stored: StoredConfig, layers: list[Layer]) -> StoredConfig:
    before = {
        f"{section}.{key}": value
        for section, values in stored.config.model_dump(mode="json").items()
        for key, value in values.items()
    }
    config = Config.from_layers([Layer("stored configuration", before), *layers])
    return StoredConfig(config, stored.unknown, stored.notes)


def _wandb_mode() -> Layer:
    """Return the environment's W&B mode; what names a run stays as the search was started with."""
    layer = environment_layer()
    return Layer(layer.source, {key: value for key, value in layer.values.items() if key == "wandb.mode"})


def _finish(result: "SearchResult", console: Console) -> None:
    """Print what the search came to, and exit accordingly."""
    from tune.read.final_report import final_report

    interruption = result.interruption
    if interruption is not None:
        console.print(f"The search was stopped: {interruption.reason}.")
    console.print(final_report(result.data, result.best, interrupted=interruption is not None))
    if interruption is not None and interruption.by_user:
        raise typer.Exit(EXIT_INTERRUPTED)
    if result.best is None:
        raise typer.Exit(EXIT_NO_TRIAL)


def _trials_wanted(wanted: str | None, before: int) -> int | None:
    """Read `--trials` of a resumed search: a number, or `+50` for 50 more."""
    if wanted is None:
        return None
    if not wanted.removeprefix("+").isdecimal():
        raise ConfigError(f"--trials '{wanted}' must be a number, or + and a number for more trials.")
    return before + int(wanted) if wanted.startswith("+") else int(wanted)
