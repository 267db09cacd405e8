"""`loratune doctor`: would this search run?"""

import typer

from tune.cli.command import HelpAll, KeyCommand, key_flags
from tune.cli.options import EXIT_USER_ERROR, ConfigFile, ResultsDir, option_layer
from tune.config import Config
from tune.read import terminal

DOCTOR_COMMAND = key_flags(
    KeyCommand,
    "loratune doctor --config quickstart",
    "loratune doctor --config my.yaml --cluster.address 10.0.0.1:6379 --results_dir /shared/results",
)


def doctor(
    context: typer.Context,
    config: ConfigFile = None,
    results_dir: ResultsDir = None,
    help_all: HelpAll = False,
) -> None:
    """Check the cluster, every node, data, base model and W&B before a search; train nothing."""
    resolved = Config.assemble(config, context.args, option_layer({"search.results_dir": results_dir}))
    from tune.doctor import examine, report

    console = terminal.console()
    findings = examine(resolved, console)
    console.print(report(findings))
    problems = sum(finding.fatal for finding in findings)
    if problems:
        typer.echo(f"{problems} problems keep this search from running")
        raise typer.Exit(EXIT_USER_ERROR)
    typer.echo("this search would run")
