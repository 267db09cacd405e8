"""`loratune search` and `loratune resume`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from trainable.config import Layer
from trainable.config.layers import flag_layer
from tune.cli.command import HelpAll, KeyCommand, key_flags
from tune.cli.options import (
    EXIT_INTERRUPTED,
    EXIT_NO_TRIAL,
    FILES,
    SEARCH,
    ConfigFile,
    ExperimentName,
    NoWandb,
    ResultsDir,
    WandbProject,
    find,
    option_layer,
)
from tune.config import Config, named_file
from tune.read import terminal

if TYPE_CHECKING:
    from tune.experiment import SearchResult

SEARCH_COMMAND = key_flags(
    KeyCommand,
    "loratune search --config quickstart --name first",
    "loratune init my.yaml --data train.jsonl --val val.jsonl --model Qwen/Qwen2.5-0.5B",
    "loratune search --config my.yaml --trials 32 --training.max_steps 400 --dry-run",
    "loratune search --config my.yaml --search.sampler gp --search.scheduler none --no_wandb",
    "loratune search --sweep sweep.yaml --config my.yaml",
)
RESUME_COMMAND = key_flags(
    KeyCommand,
    "loratune resume first",
    "loratune resume first --trials +50",
    "loratune resume first --retry-failed --dry-run",
)


def search(
    context: typer.Context,
    config: ConfigFile = None,
    sweep: Annotated[
        Path | None, typer.Option("--sweep", help="A W&B sweep file to search by.", rich_help_panel=FILES)
    ] = None,
    results_dir: ResultsDir = None,
    name: Annotated[
        str | None,
        typer.Option(help="The experiment's name; also its W&B group.", rich_help_panel=SEARCH),
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Trials to try.", rich_help_panel=SEARCH)] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the sampler and of every trial.", rich_help_panel=SEARCH)
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only show the space, the first trials and an estimate.", rich_help_panel=SEARCH
        ),
    ] = False,
    wandb_project: WandbProject = None,
    no_wandb: NoWandb = False,
    help_all: HelpAll = False,
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

        below.append(sweep_layer(named_file(sweep), Config.assemble(config, context.args)))
    resolved = Config.assemble(config, context.args, own, below=below)
    console = terminal.console()
    if dry_run:
        _show(resolved, console)
        return
    from tune.experiment import run

    _finish(run(resolved, console, captures_stderr=True), console)


def resume(
    context: typer.Context,
    experiment: ExperimentName,
    config: ConfigFile = None,
    results_dir: ResultsDir = None,
    trials: Annotated[
        str | None, typer.Option(help="Trials in all; +50 for 50 more.", rich_help_panel=SEARCH)
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run failed trials again.", rich_help_panel=SEARCH)
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.", rich_help_panel=SEARCH)
    ] = False,
    wandb_project: WandbProject = None,
    no_wandb: NoWandb = False,
    help_all: HelpAll = False,
) -> None:
    """Resume a search that was interrupted, or extend one that is finished."""
    store = find(experiment, results_dir, config)
    stored = store.read_config()
    console = terminal.console()
    for note in stored.notes:
        console.print(note)
    own = {
        "search.num_trials": stored.config.search.trials_wanted(trials) if trials is not None else None,
        "wandb.project": wandb_project,
        "wandb.mode": "disabled" if no_wandb else None,
    }
    new = stored.changed([flag_layer(context.args, Config), option_layer(own)])
    from tune.experiment import check_resumption
    from tune.experiment import resume as run_on
    from tune.read import tables
    from tune.search.resume import plan

    resumption = plan(store, stored.config, new, retry_failed=retry_failed)
    check_resumption(resumption)
    console.print(tables.plan(resumption))
    if not dry_run:
        _finish(run_on(resumption, console, captures_stderr=True), console)


def _show(config: Config, console: Console) -> None:
    """Print what the search would do."""
    from tune.dry_run import dry_run
    from tune.dry_run import report as shown

    found = dry_run(config, lambda line: console.print(line, style="dim"))
    console.print()
    console.print(shown(found))


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
