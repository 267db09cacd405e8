"""The table of model families in docs/models.md, made from the models themselves.

    python -m tests.models.table

writes it anew between its two marks.
"""

from pathlib import Path

from tests.models.checks import engine_of
from tests.models.families import FAMILIES
from trainable.engine import Engine
from trainable.errors import ModelError

DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"
_BEGIN, _END = "<!-- families: begin -->", "<!-- families: end -->"
_HEADER = "| family | status | adapted by `all-linear` | not adapted | prompts generated together |\n"


def row(name: str, engine: Engine) -> str:
    """Return the family's line, as its engine describes it."""
    kinds = dict.fromkeys(layer.rpartition(".")[2] for layer in engine.shapes)
    notes = "; ".join(note.removeprefix("not adapted: ") for note in engine.describe(name).notes())
    together = engine.prompts_together
    return f"| {name} | trained | {', '.join(kinds)} | {notes or '–'} | {together} |"


def refused_row(name: str, error: Exception) -> str:
    """Return the line of a family that the engine refuses."""
    return f"| {name} | refused | – | {str(error).split('. ')[0]} | – |"


def table() -> str:
    """Return the whole table."""
    lines = [_HEADER + "|---|---|---|---|---|"]
    for name, family in FAMILIES.items():
        try:
            lines.append(row(name, engine_of(family)))
        except ModelError as error:
            lines.append(refused_row(name, error))
    return "\n".join(lines)


def main() -> None:
    """Write the table into the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(_BEGIN)
    after = rest.split(_END)[1]
    DOCUMENT.write_text(f"{before}{_BEGIN}\n{table()}\n{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
