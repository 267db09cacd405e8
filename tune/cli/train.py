"""`loratune train`: one LoRA configuration, without a search."""

import os
from pathlib import Path
from typing import Annotated

import typer

from trainable.places import local_folder
from tune.cli.command import HelpAll, TrialKeyCommand, key_flags
from tune.cli.options import EXIT_NO_TRIAL, FILES, TRACKING, ConfigFile, NoWandb, WandbProject, option_layer
from tune.config import Config
from tune.read import terminal

TRAIN_COMMAND = key_flags(
    TrialKeyCommand,
    "loratune train --config quickstart --output_dir models/one --lora.r 32",
    "loratune train --train_data train.jsonl --val_data val.jsonl --data.test null",
    "loratune train --config quickstart --output_dir models/one --resume",
)

OUTPUT_DIR = Path("models/lora")
"""Where a single run is written to unless --output_dir is given."""


def train(
    context: typer.Context,
    config: ConfigFile = None,
    train_data: Annotated[
        str | None, typer.Option("--train_data", help="Training rows.", rich_help_panel=FILES)
    ] = None,
    val_data: Annotated[
        str | None, typer.Option("--val_data", help="Validation rows.", rich_help_panel=FILES)
    ] = None,
    test_data: Annotated[
        str | None, typer.Option("--test_data", help="Test rows.", rich_help_panel=FILES)
    ] = None,
    output_dir: Annotated[
        str | None,
        typer.Option(
            "--output_dir",
            help=f"Folder that the run is written to; default {OUTPUT_DIR}.",
            rich_help_panel=FILES,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run in --output_dir.", rich_help_panel=FILES)
    ] = False,
    wandb_project: WandbProject = None,
    wandb_run_name: Annotated[
        str | None, typer.Option("--wandb_run_name", help="W&B run name.", rich_help_panel=TRACKING)
    ] = None,
    no_wandb: NoWandb = False,
    help_all: HelpAll = False,
) -> None:
    """Train one LoRA configuration."""
    own = {
        "data.train": train_data,
        "data.val": val_data,
        "data.test": test_data,
        "wandb.project": wandb_project,
        "wandb.name": wandb_run_name,
        "wandb.mode": "disabled" if no_wandb else None,
    }
    folder = local_folder(output_dir, "--output_dir") if output_dir else _output_dir()
    resolved = Config.assemble(config, context.args, option_layer(own)).trial()
    from trainable.records import TrialState
    from trainable.single import run_single
    from trainable.tracking import WandBLogger
    from tune.read import tables

    console = terminal.console()
    with WandBLogger(resolved.wandb) as logger:
        result = run_single(resolved, folder, logger, console.print, resume=resume)
    for key, value in result.test.items():
        console.print(f"  {key} {value:.4f}")
    console.print(tables.predictions(result.predictions[:3]))
    if result.state is not TrialState.COMPLETED:
        console.print(f"{result.state}: {result.reason}")
        raise typer.Exit(EXIT_NO_TRIAL)
    console.print(f"adapter: {result.adapter}")


def _output_dir() -> Path:
    """Return the default folder of a single run; each run of a W&B sweep's agent has its own in it."""
    sweep_run = "WANDB_SWEEP_ID" in os.environ and os.environ.get("WANDB_RUN_ID")
    return OUTPUT_DIR / sweep_run if sweep_run else OUTPUT_DIR
