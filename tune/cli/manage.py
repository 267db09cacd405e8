"""`loratune ls` and `loratune clean`: the experiments there are, and the room they take."""

from typing import Annotated

import typer

from trainable.places import place_of
from tune.cli.options import ConfigFile, ExperimentName, ResultsDir, find
from tune.config import results_folder
from tune.read import terminal


def ls(config: ConfigFile = None, results_dir: ResultsDir = None) -> None:
    """List the experiments: how far each is, and its best."""
    import time

    from tune.read.listing import list_experiments, listing

    folder = place_of(results_dir) if results_dir else results_folder(config)
    terminal.console().print(listing(list_experiments(folder), folder, time.time()))


def clean(
    experiment: ExperimentName,
    keep_top: Annotated[
        int, typer.Option(min=1, help="The best trials, as many as this, keep their checkpoints.")
    ] = 3,
    dry_run: Annotated[bool, typer.Option(help="Say what would be removed, and remove nothing.")] = False,
    config: ConfigFile = None,
    results_dir: ResultsDir = None,
) -> None:
    """Remove checkpoints that neither the best trials nor a resumed search need.

    Logs, predictions, the study and best/ stay. A trial without checkpoints cannot train for more steps.
    """
    from tune.read.format import byte_size, counted
    from tune.search.cleaning import plan_cleaning
    from tune.store.reader import read

    store = find(experiment, results_dir, config)
    with store.locked():
        cleaning = plan_cleaning(read(store), keep_top)
        for removal in cleaning.removals:
            typer.echo(
                f"trial {removal.trial}: {store.name_of_checkpoint(removal.checkpoint)}, "
                f"{byte_size(removal.size)}"
            )
        if not dry_run:
            cleaning.carry_out(store)
    verb = "would be removed" if dry_run else "removed"
    typer.echo(
        f"{counted(len(cleaning.removals), 'checkpoint')} {verb}, {byte_size(cleaning.size)}; "
        f"{counted(cleaning.kept, 'checkpoint')} kept"
    )
