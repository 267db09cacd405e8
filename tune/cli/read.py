"""`loratune status` and `loratune verify`: commands that change nothing."""

from typing import TYPE_CHECKING, Annotated

import typer

from tune.cli.options import EXIT_CORRUPT, ConfigFile, ExperimentName, ResultsDir, find
from tune.read import terminal

if TYPE_CHECKING:
    from tune.store.experiment import ExperimentStore


def status(experiment: ExperimentName, config: ConfigFile = None, results_dir: ResultsDir = None) -> None:
    """Say how far an experiment is, and its best so far."""
    from tune.read import tables
    from tune.store.reader import read

    terminal.console().print(tables.status(read(find(experiment, results_dir, config)).status()))


def verify(
    experiment: ExperimentName,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Also recompute the losses and metrics of best/.")
    ] = False,
    config: ConfigFile = None,
    results_dir: ResultsDir = None,
) -> None:
    """Check that nothing of an experiment is lost, doubled or corrupt."""
    from tune.read.verify import verify as check

    store = find(experiment, results_dir, config)
    checked = check(store)
    problems = checked.problems
    if recompute:
        problems = problems + _recompute(store)
    for problem in problems:
        typer.echo(problem)
    verdict = f"{len(problems)} problems" if problems else "all sound"
    typer.echo(
        f"{checked.trials} trials, {checked.records} records, {checked.checkpoints} checkpoints: {verdict}"
    )
    if problems:
        raise typer.Exit(EXIT_CORRUPT)


def _recompute(store: "ExperimentStore") -> list[str]:
    """Print every figure of `best/` that agrees, and return what does not."""
    from tune.read.recompute import recompute

    recomputed = recompute(store, typer.echo)
    for figure in recomputed.figures:
        if figure.agrees:
            typer.echo(str(figure))
    return recomputed.problems
