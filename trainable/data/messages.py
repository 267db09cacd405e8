"""Messages of a chat, as data files write them, become what chat templates read.

Every key of a message is kept, for the template to read. What is brought to one form: content given in
parts, tool calls whose arguments are JSON in a string, and ShareGPT's `{from, value}`.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from trainable.data.readers import kind_of
from trainable.errors import DataError

Message = dict[str, Any]

REASONING = ("reasoning_content", "reasoning", "thinking")
"""Keys under which a message's reasoning is found."""

SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function_call": "assistant",
}
"""What ShareGPT's `from` is called in chat templates."""

_MAY_BE_BLANK = ("system", "developer", "tool", "function")


def with_role(role: str, content: Any) -> Message:
    """Return a message."""
    return {"role": role, "content": content}


def read_messages(value: Any, where: str, name: str = "messages") -> list[Message]:
    """Return a chat's messages, checked and in the form that templates read.

    Args:
        value: a list of messages, or JSON text of one, as CSV files hold.
        where: the row, for errors.
        name: the column's name, for errors.

    Raises:
        DataError: a message cannot be used.
    """
    messages = _parsed(value)
    if not isinstance(messages, list | tuple) or not messages:
        raise DataError(f"{where}: '{name}' is {value!r}; it must be a list of {{role, content}}.")
    return [_message(message, f"{where}, message {place}") for place, message in enumerate(messages, start=1)]


def read_tools(value: Any, where: str) -> tuple[Any, ...]:
    """Return the tools' JSON schemas; an absent or empty column means no tools.

    Raises:
        DataError: it is neither a list of objects nor JSON text of one.
    """
    tools = _parsed(value)
    if not tools:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError(f"{where}: 'tools' is {kind_of(value)}; it must be a list of JSON schemas.")
    # ShareGPT lists the bare functions; templates expect them in an object of type `function`.
    return tuple(tool if "name" not in tool else {"type": "function", "function": tool} for tool in tools)


def from_sharegpt(value: Any, where: str) -> list[Message]:
    """Return ShareGPT's `{from, value}` messages as `{role, content}`; others are passed on.

    Raises:
        DataError: a speaker is unknown.
    """
    messages = _parsed(value)
    if not isinstance(messages, list) or not messages:
        raise DataError(
            f"{where}: 'conversations' is {kind_of(value)}; it must be a list of {{from, value}}."
        )
    return [_from_sharegpt(message, f"{where}, message {n}") for n, message in enumerate(messages, start=1)]


def untrained(messages: Iterable[Message]) -> list[Message]:
    """Return messages whose assistant turns get no loss."""
    return [
        message | {"weight": 0}
        if isinstance(message, dict) and message.get("role") == "assistant"
        else message
        for message in messages
    ]


def target_text(message: Mapping[str, Any]) -> str:
    """Return what a message says, to be read by people: its content, else its tool calls as JSON."""
    if message.get("content"):
        return str(message["content"])
    return json.dumps(message["tool_calls"], ensure_ascii=False) if message.get("tool_calls") else ""


def arguments_as_text(messages: Iterable[Message]) -> list[Message]:
    """Return messages whose tool calls carry their arguments as JSON text, which some templates need."""
    changed = []
    for message in messages:
        if message.get("tool_calls"):
            calls = [
                _call(call, lambda value: json.dumps(value, ensure_ascii=False))
                for call in message["tool_calls"]
            ]
            message = message | {"tool_calls": calls}
        changed.append(message)
    return changed


def content_as_parts(messages: Iterable[Message]) -> list[Message]:
    """Return messages whose content is a list of parts, which templates of vision models need."""
    return [
        message | {"content": [{"type": "text", "text": message["content"]}]}
        if "content" in message
        else message
        for message in messages
    ]


def _parsed(value: Any) -> Any:
    """Return what JSON text of a list holds; any other value as it is."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _from_sharegpt(message: Any, where: str) -> Any:
    if not isinstance(message, dict) or "from" not in message:
        return message
    speaker = message["from"]
    if speaker not in SHAREGPT_ROLES:
        allowed = ", ".join(SHAREGPT_ROLES)
        raise DataError(f"{where}: 'from' is {speaker!r}. Allowed: {allowed}.")
    rest = {key: value for key, value in message.items() if key not in ("from", "value")}
    if speaker == "function_call":
        calls = _parsed(message.get("value"))
        try:
            calls = json.loads(calls) if isinstance(calls, str) else calls
            calls = calls if isinstance(calls, list) else [calls]
            named = [
                {"type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
                for c in calls
            ]
        except (ValueError, RecursionError, TypeError, KeyError):
            raise DataError(
                f"{where}: a function call must be JSON with 'name' and 'arguments', "
                f"not {message.get('value')!r}."
            ) from None
        return {"role": "assistant", "tool_calls": named, **rest}
    return {"role": SHAREGPT_ROLES[speaker], "content": message.get("value"), **rest}


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, dict):
        raise DataError(f"{where} is {kind_of(message)}; it must be an object {{role, content}}.")
    role = message.get("role")
    if not isinstance(role, str) or not role.strip():
        raise DataError(f"{where}: 'role' is {kind_of(role)}; it must be text such as user or assistant.")
    read = {key: value for key, value in message.items() if value is not None}
    if read.get("weight", 1) not in (0, 1):
        raise DataError(f"{where}: 'weight' is {read['weight']!r}; it must be 0 (no loss) or 1.")
    speaks_otherwise = bool(read.get("tool_calls")) or any(read.get(key) for key in REASONING)
    if "content" in read or not speaks_otherwise:
        read["content"] = _content(read.get("content"), where)
        if not read["content"].strip() and not speaks_otherwise and role not in _MAY_BE_BLANK:
            raise DataError(f"{where}: 'content' is blank; it must be text. Fill it in or drop the row.")
    if "tool_calls" in read:
        if not isinstance(read["tool_calls"], list) or not all(
            isinstance(c, dict) for c in read["tool_calls"]
        ):
            raise DataError(f"{where}: 'tool_calls' must be a list of objects with a function each.")
        read["tool_calls"] = [_call(call, _arguments) for call in read["tool_calls"]]
    return read


def _content(content: Any, where: str) -> str:
    """Return a message's text; parts of text are joined as they stand."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise DataError(f"{where}: 'content' is {kind_of(content)}; it must be text.")
    parts = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str) or (isinstance(part, dict) and part.get("type", "text") != "text"):
            kind = part.get("type") if isinstance(part, dict) else kind_of(part)
            raise DataError(
                f"{where}: 'content' has a part of type {kind!r}. Only parts of type 'text' can be read."
            )
        parts.append(text)
    return "".join(parts)


def _call(call: Mapping[str, Any], change: Any) -> dict[str, Any]:
    """Return a tool call with its arguments changed, whether or not it is wrapped in `function`."""
    if isinstance(call.get("function"), dict):
        return {**call, "function": _call(call["function"], change)}
    return {**call, "arguments": change(call["arguments"])} if "arguments" in call else dict(call)


def _arguments(arguments: Any) -> Any:
    """Return arguments as an object: templates write JSON text of an object, not text in quotes."""
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments)
        except (ValueError, RecursionError):
            return arguments
        return parsed if isinstance(parsed, dict) else arguments
    return arguments
