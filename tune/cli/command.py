"""Commands that take configuration keys as flags: grouped help, `--help-all`, and completion of the keys."""

from typing import Annotated, Any

import typer
from typer.core import CompletionItem, TyperCommand  # type: ignore[attr-defined]

from trainable.config import Section, TrialConfig, dotted_keys
from tune.config import Config
from tune.key_help import keys_text


class KeyCommand(TyperCommand):
    """A command on which every key of `model` is a flag by its dotted name."""

    model: type[Section] = Config

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options in their groups."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            is_argument = parameter.param_type_name == "argument"
            group = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None) or "Help"
            if record is not None:
                groups.setdefault(group, []).append(record)
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl(records)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[CompletionItem]:
        """Complete options and configuration keys."""
        items = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("--"):
            keys = dotted_keys(self.model).items()
            items += [
                CompletionItem(f"--{key}", help=field.description)
                for key, field in keys
                if f"--{key}".startswith(incomplete)
            ]
        return items


class TrialKeyCommand(KeyCommand):
    """The same for a command without a search."""

    model = TrialConfig


def key_flags(command: type[KeyCommand], *examples: str) -> dict[str, Any]:
    """Return the settings of a command that takes keys as flags.

    Args:
        command: says which keys.
        *examples: command lines for its help.
    """
    return {
        "cls": command,
        "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
        "epilog": with_examples(
            *examples, before="Any configuration key is a flag too: --training.batch_size 2 --lora.r=8"
        ),
    }


def with_examples(*examples: str, before: str = "") -> str:
    """Return the end of a command's help."""
    block = "\n".join(["\b", "Examples:", *(f"  {example}" for example in examples)])
    return f"{before}\n\n{block}" if before else block


def _print_all(context: typer.Context, wanted: bool) -> None:
    if wanted:
        typer.echo(f"{context.get_help()}\n")
        typer.echo(keys_text(context.command.model))  # type: ignore[attr-defined]
        raise typer.Exit


HelpAll = Annotated[
    bool,
    typer.Option(
        "--help-all",
        help="Show this message and every configuration key, and exit.",
        is_eager=True,
        callback=_print_all,
        rich_help_panel="Help",
    ),
]
