"""What the commands share: the application, options that several have, and exit codes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trainable.config import Layer
from trainable.places import place_of
from tune import __version__
from tune.config import results_folder

if TYPE_CHECKING:
    from tune.store.experiment import ExperimentStore

EXIT_USER_ERROR = 2
EXIT_NO_TRIAL = 3
EXIT_CORRUPT = 4
EXIT_INTERRUPTED = 130

FILES, SEARCH, TRACKING = "Files", "Search", "Weights & Biases"
"""Groups of options in a command's help."""

app = typer.Typer(
    help="Hyperparameter search for LoRA fine-tuning on Ray Tune.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"loratune {__version__}")
        raise typer.Exit


@app.callback()
def _application(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Hyperparameter search for LoRA fine-tuning on Ray Tune."""


def _experiments(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of experiments for shell completion; a completion has no place for an error."""
    try:
        from tune.store.experiment import ExperimentStore

        given = context.params.get("results_dir")
        folder = place_of(given) if given else results_folder(context.params.get("config"))
        return [name for name in ExperimentStore.names_in(folder) if name.startswith(incomplete)]
    except (ValueError, OSError):
        return []


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="YAML file, or a shipped one by its name: quickstart. `loratune init` writes one.",
        rich_help_panel=FILES,
    ),
]
ResultsDir = Annotated[
    str | None,
    typer.Option(
        "--results_dir", help="Folder of all experiments, or its URI (s3://…).", rich_help_panel=FILES
    ),
]
WandbProject = Annotated[
    str | None, typer.Option("--wandb_project", help="W&B project.", rich_help_panel=TRACKING)
]
NoWandb = Annotated[
    bool,
    typer.Option("--no_wandb", help="Do not track in Weights & Biases.", rich_help_panel=TRACKING),
]
ExperimentName = Annotated[
    str, typer.Argument(help="An experiment's name, its folder, or its URI.", autocompletion=_experiments)
]


def option_layer(values: dict[str, Any]) -> Layer:
    """Return the options that were given, by the key that each stands for."""
    return Layer("option", {key: value for key, value in values.items() if value is not None})


def find(experiment: str, results_dir: str | None, config: Path | None = None) -> "ExperimentStore":
    """Return an experiment's store.

    The folder of all experiments is the option's, else the configuration file's, as for `loratune search`;
    nothing else of the file is read, and nothing of the environment.

    Raises:
        ConfigError: the folder is a URI that is not supported.
        ExperimentError: there is no such experiment.
    """
    from tune.store.experiment import ExperimentStore

    folder = place_of(results_dir) if results_dir else results_folder(config)
    return ExperimentStore.find(experiment, folder)
