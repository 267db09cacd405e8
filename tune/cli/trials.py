"""`loratune trials`, `show` and `compare`: trials as tables, one trial, trials beside each other."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from trainable.errors import ConfigError
from tune.cli.options import ConfigFile, ExperimentName, ResultsDir, find
from tune.read import terminal


def trials(
    experiment: ExperimentName,
    where: Annotated[
        str | None, typer.Option(help="Condition, such as 'lora.r >= 16 and state == completed'.")
    ] = None,
    sort: Annotated[
        str | None, typer.Option(help="Column to sort by; -COLUMN sorts from high to low.")
    ] = None,
    columns: Annotated[str | None, typer.Option(help="Columns to show, separated by commas.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Show no more than this many trials.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, one object per trial.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    parquet: Annotated[
        Path | None, typer.Option(help="Write a Parquet file, with types and units in its schema.")
    ] = None,
    config: ConfigFile = None,
    results_dir: ResultsDir = None,
) -> None:
    """List an experiment's trials, best first (other formats: in the order they were tried)."""
    from tune.read import tables
    from tune.read.trial_table import table_of
    from tune.store.reader import read

    if sum((as_json, as_csv, parquet is not None)) > 1:
        raise ConfigError("--json, --csv and --parquet exclude each other. Give one of them.")
    data = read(find(experiment, results_dir, config))
    for_people = not (as_json or as_csv or parquet)
    table = table_of(data, data.leaderboard() if for_people else data.trials)
    if where is not None:
        table = table.where(where)
    if sort is not None:
        table = table.sorted_by(sort.removeprefix("-"), descending=sort.startswith("-"))
    if limit is not None:
        table = table.first(limit)
    if columns is not None:
        table = table.with_columns(name.strip() for name in columns.split(",") if name.strip())
    if as_json:
        objects = table.to_objects() if columns else [trial.to_json() for trial in table.trials]
        sys.stdout.write(json.dumps(objects, indent=2) + "\n")
    elif as_csv:
        sys.stdout.write(table.to_csv())
    elif parquet is not None:
        table.write_parquet(parquet)
        typer.echo(f"wrote {parquet}: {len(table.rows)} trials, {len(table.columns)} columns")
    elif columns is not None:
        terminal.console().print(tables.cells(table))
    else:
        objective, *others = data.config.search.objectives
        board = tables.leaderboard(table.trials, objective, others=others, of=data.leaderboard())
        terminal.console().print(board)


def show(
    experiment: ExperimentName,
    trial: Annotated[int, typer.Argument(min=0, help="The trial's number.")],
    metric: Annotated[
        str | None, typer.Option(help="Metric whose curve is drawn; else the objective.")
    ] = None,
    config: ConfigFile = None,
    results_dir: ResultsDir = None,
) -> None:
    """Show one trial: its parameters, curve, predictions, checkpoints and log."""
    from tune.read.trial_page import trial_page
    from tune.store.reader import read

    data = read(find(experiment, results_dir, config))
    terminal.console().print(trial_page(data, data.trial(trial), metric or data.objective.metric))


def compare(
    experiment: ExperimentName,
    others: Annotated[
        list[str], typer.Argument(help="Numbers of two or more of its trials; or one other experiment.")
    ],
    config: ConfigFile = None,
    results_dir: ResultsDir = None,
) -> None:
    """Compare trials of one experiment, or two experiments: what differs, and what came of it."""
    from tune.read.compare import compare_experiments, compare_trials
    from tune.store.reader import read

    data = read(find(experiment, results_dir, config))
    if len(others) > 1:
        numbers = [int(other) for other in others if other.isdecimal()]
        if len(numbers) < len(others):
            raise ConfigError(
                f"cannot compare with {', '.join(map(repr, others))}. Give the numbers of two or "
                "more trials, such as 3 7, or the name of one other experiment."
            )
        terminal.console().print(compare_trials(data, [data.trial(number) for number in numbers]))
        return
    other = read(find(others[0], results_dir, config))
    terminal.console().print(compare_experiments(data, other))
