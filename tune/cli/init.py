"""`loratune init`: a configuration file for a person's own data and model."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from trainable.places import local_folder
from tune.cli.command import with_examples

INIT_COMMAND: dict[str, Any] = {
    "epilog": with_examples(
        "loratune init my.yaml --data train.jsonl --val val.jsonl",
        "loratune init my.yaml --data train.jsonl --val val.jsonl --model Qwen/Qwen2.5-0.5B --space lora",
    )
}


def init(
    file: Annotated[Path, typer.Argument(help="The YAML file to write; it must not exist.")],
    data: Annotated[str, typer.Option(help="Training rows.")],
    val: Annotated[str, typer.Option(help="Validation rows, which the search is guided by.")],
    test: Annotated[str | None, typer.Option(help="Test rows, kept for the end.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A model's name on the hub, its folder, or its GGUF file.")
    ] = None,
    space: Annotated[str | None, typer.Option(help="Search space: a preset's name or a YAML file.")] = None,
) -> None:
    """Write a configuration for your own data.

    Every key is in it, with its default and what it means as a comment.
    """
    from tune.init_config import new_config, write_new

    local_folder(file, "file")
    values = {"data.train": data, "data.val": val, "data.test": test}
    if model is not None:
        values["model.name"] = model
    if space is not None:
        values["search.space"] = space
    write_new(file, new_config(file, values))
    typer.echo(f"wrote {file}. Edit it, then: loratune search --config {shlex.quote(str(file))}")
