"""`loratune config`: the resolved configuration."""

import typer

from tune.cli.command import HelpAll, KeyCommand, key_flags
from tune.cli.options import ConfigFile
from tune.config import Config

app = typer.Typer(help="Look at the configuration.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Look at the configuration."""


@app.command(
    "show", **key_flags(KeyCommand, "loratune config show --config quickstart --training.learning_rate 1e-4")
)
def show(context: typer.Context, config: ConfigFile = None, help_all: HelpAll = False) -> None:
    """Print the resolved configuration, and who set what is not at its default."""
    resolved, sources = Config.assemble_with_sources(config, context.args)
    typer.echo(resolved.to_yaml(), nl=False)
    for key, source in sorted(sources.items()):
        typer.echo(f"# {key}: {source}")
