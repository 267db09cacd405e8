"""`loratune trials`, `loratune status` and `loratune verify`: commands that change nothing."""

import json
import sys
from typing import Annotated

import typer

from tune.cli.options import EXIT_CORRUPT, ConfigFile, ExperimentName, ResultsDir, find
from tune.read import terminal


def trials(
    experiment: ExperimentName,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, one object per trial.")] = False,
    config: ConfigFile = None,
    results_dir: ResultsDir = None,
) -> None:
    """List an experiment's trials, best first (with --json: in the order they were tried)."""
    from tune.read import tables
    from tune.store.reader import read

    data = read(find(experiment, results_dir, config))
    if as_json:
        sys.stdout.write(json.dumps([trial.to_json() for trial in data.trials], indent=2) + "\n")
        return
    terminal.console().print(tables.leaderboard(data.leaderboard(), data.objective))


def status(experiment: ExperimentName, config: ConfigFile = None, results_dir: ResultsDir = None) -> None:
    """Say how far an experiment is, and its best so far."""
    from tune.read import tables
    from tune.store.reader import read

    terminal.console().print(tables.status(read(find(experiment, results_dir, config)).status()))


def verify(experiment: ExperimentName, config: ConfigFile = None, results_dir: ResultsDir = None) -> None:
    """Check that nothing of an experiment is lost, doubled or corrupt."""
    from tune.read.verify import verify as check

    checked = check(find(experiment, results_dir, config))
    for problem in checked.problems:
        typer.echo(problem)
    verdict = f"{len(checked.problems)} problems" if checked.problems else "all sound"
    typer.echo(
        f"{checked.trials} trials, {checked.records} records, {checked.checkpoints} checkpoints: {verdict}"
    )
    if checked.problems:
        raise typer.Exit(EXIT_CORRUPT)
