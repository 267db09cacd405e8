"""`loratune export`, `predict` and `chat`: taking the winner home, and trying it at once. Without Ray."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trainable.errors import ConfigError
from tune.cli.options import ConfigFile, ExperimentName, ResultsDir, find
from tune.read import terminal

if TYPE_CHECKING:
    from tune.read.experiment import BestAdapter, Experiment

TrialNumber = Annotated[
    int | None, typer.Option(min=0, help="A trial's number; else the best one's adapter.")
]
NewTokens = Annotated[int | None, typer.Option(min=1, help="Tokens of a text at most; else as configured.")]


def export(
    experiment: ExperimentName,
    trial: TrialNumber = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write base model and adapter as one model.")
    ] = False,
    to: Annotated[
        str | None, typer.Option(help="The folder, or hub:OWNER/NAME; else EXPERIMENT-adapter or -merged.")
    ] = None,
    check: Annotated[bool, typer.Option(help="Load what was written, and score it again.")] = True,
    config: ConfigFile = None,
    results_dir: ResultsDir = None,
) -> None:
    """Write the best adapter in PEFT's format, or merged into its base model, with a model card."""
    loaded = _experiment(experiment, results_dir, config)
    from tune.read.export import export as write
    from tune.read.format import score

    written = write(loaded, to, trial=trial, merge=merge, check=check, say=typer.echo)
    typer.echo(f"wrote {written.folder}")
    if written.loss is not None:
        reported = f", and the search reported {score(written.reported)}" if written.reported else ""
        typer.echo(f"loaded it back: eval/loss {score(written.loss)}{reported}")
    if written.url is not None:
        typer.echo(f"pushed to {written.url}")


def predict(
    experiment: ExperimentName,
    input_file: Annotated[Path, typer.Option("--input", help="Rows, with or without targets.")],
    trial: TrialNumber = None,
    to: Annotated[Path | None, typer.Option(help="A JSON Lines file; else standard output.")] = None,
    max_new_tokens: NewTokens = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    config: ConfigFile = None,
    results_dir: ResultsDir = None,
) -> None:
    """Write a text for each row of a file, as JSON lines."""
    loaded, where = _experiment(experiment, results_dir, config), _device(device)
    from tune.read.predict import Predictor, check_input

    check_input(input_file)
    predictor = Predictor(_adapter(loaded, trial), device=where, max_new_tokens=max_new_tokens)
    lines = []
    for predicted in predictor.predict(input_file):
        lines.append(f"{predicted.to_json()}\n")
        if to is None:
            sys.stdout.write(lines[-1])
            sys.stdout.flush()
    if to is not None:
        terminal.write_output(to, "".join(lines).encode("utf-8", "replace"))
        typer.echo(f"wrote {to}: {len(lines)} texts")


def chat(
    experiment: ExperimentName,
    trial: TrialNumber = None,
    max_new_tokens: NewTokens = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    config: ConfigFile = None,
    results_dir: ResultsDir = None,
) -> None:
    """Type to the winner, and read its answers. An empty line begins anew; Ctrl-D ends."""
    loaded, where = _experiment(experiment, results_dir, config), _device(device)
    from tune.read.predict import Predictor

    predictor = Predictor(_adapter(loaded, trial), device=where, max_new_tokens=max_new_tokens)
    if not predictor.is_chat:
        typer.echo("The model has no chat template: each line is an input of its own.")
    turns: list[str] = []
    while True:
        try:
            said = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if not said:
            turns = []
            continue
        answer = predictor.answer([*turns, said])
        turns += [said, answer]
        typer.echo(terminal.printable(answer))


def _experiment(name: str, results_dir: str | None, config: Path | None) -> "Experiment":
    from tune.read.experiment import Experiment
    from tune.store.reader import read

    return Experiment(read(find(name, results_dir, config)))


def _adapter(experiment: "Experiment", trial: int | None) -> "BestAdapter":
    return experiment.best if trial is None else experiment.adapter(trial)


def _device(name: str) -> Literal["auto", "cpu", "cuda"]:
    match name:
        case "auto" | "cpu" | "cuda":
            return name
        case _:
            raise ConfigError(f"--device '{name}' is not allowed. Allowed: auto, cpu, cuda.")
