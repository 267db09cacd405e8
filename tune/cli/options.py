"""What the commands share: the application, options that several have, and exit codes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from trainable.config import Layer
from trainable.config.layers import file_layers
from tune.config import Config, default_file
from tune.store.experiment import ExperimentStore

EXIT_USER_ERROR = 2
EXIT_NO_TRIAL = 3
EXIT_CORRUPT = 4
EXIT_INTERRUPTED = 130

app = typer.Typer(
    help="Hyperparameter search for LoRA fine-tuning on Ray Tune.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DOTTED: dict[str, Any] = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
    "epilog": "Any key of config/base_config.yaml is a flag too: --training.batch_size 2 --lora.r=8",
}
"""For a command that takes configuration keys as flags."""

ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file; see config/base_config.yaml.")]
ResultsDir = Annotated[Path | None, typer.Option("--results_dir", help="Folder of all experiments.")]
NoWandb = Annotated[bool, typer.Option("--no_wandb", help="Do not track in Weights & Biases.")]
ExperimentName = Annotated[str, typer.Argument(help="An experiment's name, or its folder.")]


def option_layer(values: dict[str, Any]) -> Layer:
    """Return the options that were given, by the key that each stands for."""
    return Layer("option", {key: value for key, value in values.items() if value is not None})


def find(experiment: str, results_dir: Path | None, config: Path | None = None) -> ExperimentStore:
    """Return an experiment's store.

    The folder of all experiments is the option's, else the configuration file's, as for `loratune search`;
    nothing else of the file is read, and nothing of the environment.

    Raises:
        ExperimentError: there is no such experiment.
    """
    if results_dir is None:
        path = config or default_file()
        layers = file_layers(path, Config, only="search") if path else []
        given = [
            layer.values["search.results_dir"] for layer in layers if "search.results_dir" in layer.values
        ]
        results_dir = Path(given[-1]) if given else Config().search.results_dir
    return ExperimentStore.find(experiment, results_dir)
