"""`loratune status`, `loratune report` and `loratune verify`: commands that do not change an experiment."""

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tune.cli.options import EXIT_CORRUPT, ConfigFile, ExperimentName, ResultsDir, find
from tune.read import terminal

if TYPE_CHECKING:
    from tune.store.experiment import ExperimentStore


def status(
    experiment: ExperimentName,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing it, until Ctrl-C or its end.")] = False,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks with --watch.")] = 5.0,
    config: ConfigFile = None,
    results_dir: ResultsDir = None,
) -> None:
    """Say how far an experiment is, and its best so far, from any terminal."""
    from tune.read.live import NO_LIMIT, render
    from tune.read.status import search_view
    from tune.read.watch import watch as keep_showing
    from tune.store.reader import read

    store, console = find(experiment, results_dir, config), terminal.console()
    if watch and console.is_interactive:
        keep_showing(store, console, every)
    # Without a terminal nothing can be refreshed: one look, as without --watch.
    view = search_view(read(store), time.time())
    console.print(render(view, console.height if console.is_interactive else NO_LIMIT))


class ReportFormat(StrEnum):
    """What a report is written as."""

    HTML = "html"
    MARKDOWN = "md"
    JSON = "json"


def report(
    experiment: ExperimentName,
    to: Annotated[Path | None, typer.Option(help="The file; else EXPERIMENT-report.FORMAT here.")] = None,
    kind: Annotated[
        ReportFormat | None, typer.Option("--format", help="html, md or json; else by the file's name.")
    ] = None,
    config: ConfigFile = None,
    results_dir: ResultsDir = None,
) -> None:
    """Write one page on a search: verdict, leaderboard, charts, predictions, cost."""
    from tune.read.report.gather import gather
    from tune.read.report.write import WRITERS
    from tune.store.reader import read

    store = find(experiment, results_dir, config)
    file = to or Path(f"{store.name}-report.{(kind or ReportFormat.HTML).value}")
    form = kind.value if kind else file.suffix.lstrip(".")
    write = WRITERS.get(form, WRITERS["html"])
    terminal.write_output(file, write(gather(read(store), time.time())).encode("utf-8", "replace"))
    typer.echo(f"wrote {file}")


def dashboard(
    experiment: ExperimentName,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of this machine; 0: any free one.")] = 8080,
    config: ConfigFile = None,
    results_dir: ResultsDir = None,
) -> None:
    """Show the study in optuna-dashboard, in a browser on this machine; nothing can be changed there."""
    from tune.read.dashboard import serve

    store = find(experiment, results_dir, config)
    study = store.open_study(store.read_config().config)
    serve(study, port, lambda address: typer.echo(f"{address}\nCtrl-C ends it."))


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
