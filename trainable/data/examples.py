"""Rows become examples: what the model sees, and what it should generate.

The form of a row follows from its columns. `FORMS` lists the forms in the order in which they are looked
for; a row that fits several is read as the first. `data.columns` names the columns of any other row.

A row that cannot be trained on ends in a `DataError` that names the file, the row, what is wrong and what
is allowed. No row is skipped. Columns that are not read are collected in a `Survey`, to be reported once per
file.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trainable.data.messages import (
    Message,
    from_sharegpt,
    read_messages,
    read_tools,
    target_text,
    untrained,
    with_role,
)
from trainable.data.readers import kind_of
from trainable.data.sources import Source
from trainable.errors import DataError, nearest

ROW_FORMS = (
    "{input, target}, {prompt, response}, {prompt, completion}, {instruction, output}, {question, answer}, "
    "{messages: [{role, content}, ...]}, {conversations}, {prompt, chosen, rejected}, {text}, or columns "
    "that data.columns names"
)

Row = Mapping[str, Any]
Build = Callable[[Row, str, str], "Example"]


@dataclass(frozen=True)
class Example:
    """One row.

    Attributes:
        prompt: what the model sees; for a chat, everything before the last trained turn, to be read by
            people; empty for a row of plain text.
        target: what the model should generate; for a chat, the last trained turn.
        messages: a chat's messages with all their keys, up to the last trained turn; empty for a row that
            is not a chat. An assistant message with a `weight` of 0 gets no loss.
        tools: the tools' JSON schemas, for the chat template.
        template_options: further variables for the chat template, such as `enable_thinking`.
        row: the row's number in its file, from 1; in a file with one row per line, the line's.
    """

    prompt: str
    target: str
    messages: tuple[Message, ...] = ()
    tools: tuple[Any, ...] = ()
    template_options: Mapping[str, Any] = field(default_factory=dict)
    row: int = 1


@dataclass(frozen=True)
class Form:
    """One way to lay out a row.

    Attributes:
        needs: the columns by which it is recognized.
        reads: columns that are read where a row has them.
        build: makes the example from the row, the prompt template, and the row's place for errors.
    """

    needs: tuple[str, ...]
    reads: tuple[str, ...]
    build: Build

    def __str__(self) -> str:
        return "{" + ", ".join(self.needs) + "}"


def in_rows(count: int) -> str:
    """Return a number of rows in words."""
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


class Survey:
    """How a file was read: the forms of its rows, and the columns that were not read."""

    def __init__(self) -> None:
        self.forms: Counter[str] = Counter()
        self.unread: dict[str, None] = {}

    def notes(self) -> list[str]:
        """Return what a user should know about it."""
        taken = ", ".join(f"{in_rows(count)} read as {form}" for form, count in self.forms.most_common())
        return [taken, *([f"columns not read: {', '.join(self.unread)}"] if self.unread else [])]


def read_examples(
    source: Source,
    prompt_template: str,
    columns: Mapping[Any, str] | None = None,
    survey: Survey | None = None,
) -> Iterator[Example]:
    """Turn the rows of one source into examples.

    Args:
        source: the rows.
        prompt_template: the prompt of a row whose columns are not a prompt as they stand; `{input}` in it
            stands for the row's input, instruction or question.
        columns: the file's column for each role; `None`: detected.
        survey: is filled in.

    Raises:
        DataError: a file cannot be read, a row cannot be trained on, or there are no rows.
    """
    survey = survey or Survey()
    for name, number, row in source.rows():
        where = f"{name}, row {number}"
        if not isinstance(row, dict):
            raise DataError(f"{where} is {kind_of(row)}, not an object. Allowed: {ROW_FORMS}.")
        if columns:
            form, row, unread = _mapped(row, columns, where)
        else:
            detected, unread = _detect(tuple(row))
            if detected is None:
                raise _unknown_form(row, where)
            form = detected
        survey.forms[str(form)] += 1
        survey.unread.update(dict.fromkeys(unread))
        yield replace(form.build(row, prompt_template, where), row=number)
    if not survey.forms:
        raise DataError(f"{source.name} holds no rows. It must have at least one: {ROW_FORMS}.")


def _ready(prompt_key: str, target_key: str) -> Form:
    """A prompt that is used as it stands: text, or messages."""

    def build(row: Row, template: str, where: str) -> Example:
        del template
        prompt, target = row[prompt_key], row[target_key]
        if not isinstance(prompt, list) and not isinstance(target, list):
            return _pair(row, _text(row, prompt_key, where), _text(row, target_key, where), where)
        asked = untrained(prompt) if isinstance(prompt, list) else [with_role("user", prompt)]
        said = target if isinstance(target, list) else [with_role("assistant", target)]
        return _chat([*asked, *said], row, where)

    return Form((prompt_key, target_key), (*_SYSTEM, *_CHAT), build)


def _templated(prompt_key: str, target_key: str, context_keys: tuple[str, ...] = ()) -> Form:
    """A prompt that is put into the prompt template, together with its context if it has one."""

    def build(row: Row, template: str, where: str) -> Example:
        asked = _text(row, prompt_key, where)
        for key in context_keys:
            if row.get(key) is not None and str(row[key]).strip():
                asked = f"{asked}\n\n{_text(row, key, where)}"
        # Not str.format: inputs and templates may hold braces of their own.
        return _pair(row, template.replace("{input}", asked), _text(row, target_key, where), where)

    return Form((prompt_key, target_key), (*context_keys, *_SYSTEM), build)


def _pair(row: Row, prompt: str, target: str, where: str) -> Example:
    """Return a plain example, or a chat where the row has a system prompt."""
    system = next((row[key] for key in _SYSTEM if row.get(key)), None)
    if system is None:
        return Example(prompt, target)
    messages = [with_role("system", system), with_role("user", prompt), with_role("assistant", target)]
    return _chat(messages, row, where)


def _from_messages(row: Row, template: str, where: str) -> Example:
    del template
    return _chat(row["messages"], row, where)


def _from_conversations(row: Row, template: str, where: str) -> Example:
    del template
    messages = from_sharegpt(row["conversations"], where)
    system = row.get("system")
    return _chat([with_role("system", system), *messages] if system else messages, row, where)


def _from_preference(row: Row, template: str, where: str) -> Example:
    """Train on the preferred answer; what comes before it is the prompt."""
    del template
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    if isinstance(chosen, list):
        both = zip(chosen, rejected, strict=False) if isinstance(rejected, list) else ()
        shared = next((place for place, (one, other) in enumerate(both) if one != other), 0)
        asked: list[Any] = prompt if isinstance(prompt, list) else []
        first = chosen[0] if chosen else None
        if isinstance(prompt, str) and isinstance(first, dict) and first.get("role") == "assistant":
            asked = [with_role("user", prompt)]
        return _chat([*untrained(asked), *untrained(chosen[:shared]), *chosen[shared:]], row, where)
    if isinstance(prompt, list):
        return _chat([*untrained(prompt), with_role("assistant", chosen)], row, where)
    if prompt is not None:
        return Example(_text(row, "prompt", where), _text(row, "chosen", where))
    # Both sides are complete transcripts that end with the answer.
    before, cue, answer = _text(row, "chosen", where).rpartition("\n\nAssistant:")
    if not before.strip() or not answer.strip():
        raise DataError(
            f"{where}: 'chosen' has no 'prompt' beside it, and is not a transcript with an answer after "
            "'Assistant:'. Add the column 'prompt'."
        )
    return Example(before + cue, answer)


def _from_text(row: Row, template: str, where: str) -> Example:
    del template
    return Example("", _text(row, "text", where))


_SYSTEM = ("system", "system_prompt")
_CHAT = ("tools", "chat_template_kwargs")

FORMS = (
    Form(("chosen", "rejected"), ("prompt", *_CHAT), _from_preference),
    _ready("prompt", "response"),
    _ready("prompt", "completion"),
    _templated("input", "target"),
    _templated("instruction", "output", ("input",)),
    _templated("instruction", "response", ("context", "input")),
    _templated("question", "answer"),
    _templated("question", "response"),
    Form(("messages",), _CHAT, _from_messages),
    Form(("conversations",), ("system", *_CHAT), _from_conversations),
    Form(("text",), (), _from_text),
)
"""Every form, in the order in which they are looked for."""


@functools.lru_cache(maxsize=1024)
def _detect(columns: tuple[str, ...]) -> tuple[Form | None, tuple[str, ...]]:
    """Return the form of rows with these columns, and the columns that it does not read."""
    for form in FORMS:
        if set(form.needs) <= set(columns):
            read = {*form.needs, *form.reads}
            return form, tuple(column for column in columns if column not in read)
    return None, ()


def _mapped(row: Row, columns: Mapping[str, str], where: str) -> tuple[Form, Row, tuple[str, ...]]:
    """Rename the columns that `data.columns` names, and hide all others."""
    for role, column in columns.items():
        if column not in row:
            raise DataError(
                f"{where} has no column '{column}', which data.columns names as its {role}: its columns are "
                f"{_names(row)}.{nearest(column, row)}"
            )
    form, _ = _detect(tuple(columns))
    if form is None:
        raise DataError(f"data.columns names {_names(columns)}, which is not enough. Allowed: {ROW_FORMS}.")
    used = set(columns.values())
    renamed = {role: row[column] for role, column in columns.items()}
    return form, renamed, tuple(column for column in row if column not in used)


def _unknown_form(row: Row, where: str) -> DataError:
    pairs = [form.needs for form in FORMS if len(form.needs) == 2]
    for prompt_key, target_key in pairs:
        if prompt_key in row:
            hint = nearest(target_key, row.keys() - {prompt_key})
            return DataError(
                f"{where} has '{prompt_key}' but no target: its keys are {_names(row)}.{hint} "
                f"Allowed: {ROW_FORMS}."
            )
    return DataError(f"{where} has no prompt and target: its keys are {_names(row)}. Allowed: {ROW_FORMS}.")


def _chat(messages: Any, row: Row, where: str) -> Example:
    """Return a chat, up to the last assistant message that gets a loss."""
    read = read_messages(messages, where)
    options = row.get("chat_template_kwargs") or {}
    if not isinstance(options, Mapping):
        raise DataError(f"{where}: 'chat_template_kwargs' is {kind_of(options)}; it must be an object.")
    spoken = [place for place, message in enumerate(read) if message["role"] == "assistant"]
    trained = [place for place in spoken if read[place].get("weight", 1)]
    if not trained:
        roles = ", ".join(message["role"] for message in read)
        why = "every assistant message has weight 0" if spoken else "no message has the role 'assistant'"
        raise DataError(f"{where} has no target: {why} (roles: {roles}).")
    last = trained[-1]
    if last == 0:
        raise DataError(f"{where} has no prompt: nothing is said before the assistant's only message.")
    return Example(
        prompt="\n".join(f"{message['role']}: {target_text(message)}" for message in read[:last]),
        target=target_text(read[last]),
        messages=tuple(read[: last + 1]),
        tools=read_tools(row.get("tools"), where),
        template_options=options,
    )


def _text(row: Row, key: str, where: str) -> str:
    """Return a text that is there and not blank."""
    value = row.get(key)
    if not isinstance(value, str):
        raise DataError(f"{where}: '{key}' is {kind_of(value)}; it must be text.")
    if not value.strip():
        raise DataError(f"{where}: '{key}' is blank; it must be text. Fill it in or drop the row.")
    return value


def _names(row: Row) -> str:
    return ", ".join(map(str, row)) or "none"
