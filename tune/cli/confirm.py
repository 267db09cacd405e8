"""`loratune confirm`: the best configurations again, with other seeds."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from tune.cli.options import EXIT_INTERRUPTED, ConfigFile, ExperimentName, NoWandb, ResultsDir, find
from tune.read import terminal

if TYPE_CHECKING:
    from tune.experiment import SearchResult
    from tune.store.experiment import ExperimentStore


def confirm(
    experiment: ExperimentName,
    top: Annotated[int, typer.Option(min=1, help="How many of the best configurations.")] = 3,
    seeds: Annotated[int, typer.Option(min=2, help="New seeds for each.")] = 3,
    config: ConfigFile = None,
    results_dir: ResultsDir = None,
    no_wandb: NoWandb = False,
) -> None:
    """Train the best configurations again with other seeds, and say whether the winner's lead is luck.

    The runs are an experiment of their own. Called again, it resumes them if they were interrupted, and
    otherwise only says what they say.
    """
    from tune.read.confirmed import confirmed as shown
    from tune.search.confirm import judge
    from tune.store.reader import read

    store = find(experiment, results_dir, config)
    searched = read(store)
    console = terminal.console()
    confirmed = _run(store, top, seeds, console, no_wandb=no_wandb)
    console.print()
    console.print(shown(judge(searched, read(confirmed), top), searched.objective))


def _run(
    store: "ExperimentStore", top: int, seeds: int, console: Console, *, no_wandb: bool
) -> "ExperimentStore":
    """Train what is not trained yet; returns the experiment with the runs."""
    from trainable.places import inside, parent_of
    from tune.experiment import resume, run
    from tune.search.confirm import confirmation
    from tune.search.resume import plan
    from tune.store.experiment import ExperimentStore
    from tune.store.reader import read

    wanted = confirmation(read(store), top, seeds)
    if no_wandb:
        wanted = wanted.model_copy(update={"wandb": wanted.wandb.model_copy(update={"mode": "disabled"})})
    results = parent_of(store.place)
    there = ExperimentStore(inside(results, str(wanted.search.name)))
    if there.name not in ExperimentStore.names_in(results):
        console.print(f"{wanted.search.num_trials} runs, in the experiment '{there.name}'")
        _finish(run(wanted, console, captures_stderr=True), console)
        return there
    stored = there.read_config()
    resumption = plan(there, stored.config, stored)
    if not resumption.plan.nothing_to_do:
        _finish(resume(resumption, console, captures_stderr=True), console)
    return there


def _finish(result: "SearchResult", console: Console) -> None:
    interruption = result.interruption
    if interruption is not None:
        console.print(f"The runs were stopped: {interruption.reason}. The same command continues them.")
        raise typer.Exit(EXIT_INTERRUPTED)
