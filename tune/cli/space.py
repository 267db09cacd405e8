"""`loratune space`: look at a search space before anything is searched."""

import json
import sys
from typing import Annotated

import typer

from tune.cli.command import HelpAll, KeyCommand, key_flags
from tune.cli.options import ConfigFile
from tune.config import Config
from tune.read import terminal

app = typer.Typer(help="Look at a search space: a preset or a YAML file.", no_args_is_help=True)

SpaceName = Annotated[str, typer.Argument(help="A preset's name or a YAML file.")]


@app.command("show", **key_flags(KeyCommand, "loratune space show", "loratune space show lora"))
def show(
    context: typer.Context,
    space: Annotated[str | None, typer.Argument(help="A preset's name or a YAML file.")] = None,
    config: ConfigFile = None,
    help_all: HelpAll = False,
) -> None:
    """Show a space's axes and, of a preset, the reasons for them; without a name: list the presets."""
    from search_spaces import Space
    from search_spaces.reading import preset_text, presets
    from tune.read import space as shown

    console = terminal.console()
    if space is None:
        for name in presets():
            console.print(f"{name:16}{preset_text(name).splitlines()[0].removeprefix('# ')}")
        return
    loaded = Space.load(space, Config.assemble(config, context.args).trial())
    if space in presets():
        console.print(shown.reasons(preset_text(space)))
        console.print()
    console.print(shown.axes(loaded))


@app.command("validate", **key_flags(KeyCommand, "loratune space validate my_space.yaml --config my.yaml"))
def validate(
    context: typer.Context, space: SpaceName, config: ConfigFile = None, help_all: HelpAll = False
) -> None:
    """Check that trials could run with everything that a space allows."""
    from search_spaces import Space
    from tune.read.space import size

    loaded = Space.load(space, Config.assemble(config, context.args).trial())
    terminal.console().print(f"{space} is sound: {size(loaded)}")


@app.command("sample", **key_flags(KeyCommand, "loratune space sample lora -n 5 --json"))
def sample(
    context: typer.Context,
    space: SpaceName,
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="Points to draw.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same points.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, one object per point.")] = False,
    config: ConfigFile = None,
    help_all: HelpAll = False,
) -> None:
    """Draw random points, as trials would have them."""
    from search_spaces import Space
    from tune.read.space import points
    from tune.search.sampling import random_points

    loaded = Space.load(space, Config.assemble(config, context.args).trial())
    drawn = [point.params for point in random_points(loaded, number, seed)]
    if as_json:
        sys.stdout.write(json.dumps(drawn, indent=2) + "\n")
        return
    terminal.console().print(points(drawn))
