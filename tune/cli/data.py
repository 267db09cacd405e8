"""`loratune data`: the data files of the shipped application."""

from pathlib import Path
from typing import Annotated

import typer

from trainable.places import local_folder

app = typer.Typer(help="Make the data files of the shipped application.", no_args_is_help=True)


@app.command()
def weather(
    directory: Annotated[Path, typer.Argument(help="Where train.json, val.json and test.json go.")],
    train: Annotated[int, typer.Option(min=1, help="Training rows.")] = 2000,
    val: Annotated[int, typer.Option(min=1, help="Validation rows.")] = 200,
    test: Annotated[int, typer.Option(min=1, help="Test rows.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same rows.")] = 0,
) -> None:
    """Make the built-in weather corpus: observations in, forecast texts out."""
    from trainable.weather.corpus import write_weather

    for path in write_weather(local_folder(directory, "directory"), train, val, test, seed):
        typer.echo(path)


@app.command()
def weathergov(
    source: Annotated[Path, typer.Argument(help="Folder with {train,val,test}.jsonl or .jsonl.gz records.")],
    directory: Annotated[Path, typer.Argument(help="Where train.json, val.json and test.json go.")],
) -> None:
    """Turn WeatherGov records into the three data files."""
    from trainable.weather.weathergov import write_weathergov

    for path in write_weathergov(source, local_folder(directory, "directory")):
        typer.echo(path)
