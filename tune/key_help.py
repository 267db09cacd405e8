"""What configuration keys mean, as text: for `--help-all` and for the files that `loratune init` writes."""

import json
import textwrap
from collections.abc import Iterator
from typing import Any

import yaml

from trainable.config import Section, dotted_keys

_WIDTH = 100
_KEY_WIDTH = 40


def keys_text(model: type[Section]) -> str:
    """Return every key of a model with its meaning and its default, section by section."""
    return "\n\n".join("\n".join(_section_lines(model, name)) for name in model.model_fields)


def section_title(section: type[Section]) -> str:
    """Return the first line of a section's docstring."""
    return (section.__doc__ or "").strip().splitlines()[0]


def yaml_text(value: Any) -> str:
    """Return a value of JSON's types as YAML on one line."""
    if isinstance(value, str) and "\n" in value:
        return json.dumps(value, ensure_ascii=False)
    text = yaml.safe_dump(
        value, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("...\n").strip()


def _section_lines(model: type[Section], name: str) -> Iterator[str]:
    section = model.model_fields[name].annotation
    assert isinstance(section, type)
    assert issubclass(section, Section)
    yield f"{name}: {section_title(section)}"
    defaults = section().model_dump(mode="json")
    for key, field in dotted_keys(section).items():
        flag = f"  --{name}.{key}  "
        yield from textwrap.wrap(
            f"{field.description} [default: {yaml_text(defaults[key])}]",
            _WIDTH,
            initial_indent=flag.ljust(_KEY_WIDTH),
            subsequent_indent=" " * _KEY_WIDTH,
            break_on_hyphens=False,
        )
