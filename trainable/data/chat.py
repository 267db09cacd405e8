"""A chat is rendered by the model's chat template, and the text that gets a loss is located in it.

The prompt is exactly what inference sends: the template's rendering of all messages before the last trained
turn, with the generation prompt. What follows in the rendering of the whole chat is the target.

An earlier assistant turn gets a loss only if it is rendered as the model would have generated it: what comes
before it equals the prompt at that point, and the turn itself is rendered the same when it is the last.
Templates that rewrite earlier turns (by removing their reasoning, or by ending them with another token)
would otherwise train the model on text that it must not generate. Where a template marks what the model
generates (`{% generation %}`), the marks decide instead.

Some templates open a reasoning block in the generation prompt that is missing from the rendering of the
whole chat. The target then closes the block, with the message's own reasoning in it, because generation
starts inside it.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from trainable.data.examples import Example
from trainable.data.messages import REASONING, Message, arguments_as_text, content_as_parts
from trainable.data.tokenized import shared_length
from trainable.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN_CHAT = (
    "{% if tools %}tools: {{ tools | tojson }}\n{% endif %}"
    "{% for message in messages %}{{ '' if loop.first else '\n' }}"
    "{{ message['role'] }}: {{ message['content'] }}"
    "{% if message['tool_calls'] %}{{ message['tool_calls'] | tojson }}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{{ '\nassistant:' if add_generation_prompt else '' }}"
)
"""The chat template of a tokenizer that has none: a line `role: content` for each turn."""

REWRITES = (
    "some earlier assistant turns get no loss, because the chat template does not render them as they are "
    "generated"
)

_MARK = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_SENTINEL = "\x01"
_THINK = ("<think>", "</think>")
_REFUSALS = (TemplateError, TypeError, ValueError, KeyError, AttributeError)
"""What a template raises on messages that it is not made for."""


@dataclass(frozen=True)
class Rendered:
    """A row as text.

    Attributes:
        text: all of it.
        begin: where the last target begins: the length of the prompt.
        spans: the stretches that get a loss, in order.
        reference: the last target without special tokens, to compare generated text with.
        is_ended: whether the text itself says that the last turn is over.
    """

    text: str
    begin: int
    spans: tuple[tuple[int, int], ...]
    reference: str
    is_ended: bool


class ChatRenderer:
    """Renders the chats of one file.

    Attributes:
        end_token: the tokenizer's end token; empty if it has none.
        notes: what a user should know about the template, with the number of rows it applies to.
        is_plain: whether the tokenizer has no chat template of its own.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        self._special_names: Mapping[str, Any] = tokenizer.special_tokens_map
        self._special_texts = [token for token in tokenizer.all_special_tokens if token]
        self._ends = (*self._special_texts, *tokenizer.get_added_vocab())
        self._named: dict[bool, str] = {}
        self._read_parts: dict[str, bool] = {}
        self.end_token = tokenizer.eos_token or ""
        self.is_plain = not tokenizer.chat_template
        self.notes: Counter[str] = Counter()

    def render(self, example: Example, where: str) -> Rendered:
        """Render one chat.

        Raises:
            DataError: the template refuses the messages, or does not show what is to be trained.
        """
        chat = _Chat(self, example, where)
        full, marks = chat.whole()
        prompt = chat.prompt(len(example.messages) - 1)
        start, head = _align(chat, prompt, full)
        target = full[start:]
        chat.check_shown(target, full)
        shared = shared_length(prompt, full)
        if marks is None:
            spans = [*chat.earlier_turns(prompt), (len(prompt), len(prompt) + len(head + target))]
        else:
            # A mark that covers the target's beginning covers what is written before it as well.
            shift = len(prompt) + len(head) - start
            spans = [(first, last) for first, last in marks if last <= min(shared, start)]
            spans += [
                (first + shift if first > start else len(prompt), last + shift)
                for first, last in marks
                if last > start
            ]
        reference = self._reference(example, head + target)
        return Rendered(
            text=prompt + head + target,
            begin=len(prompt),
            spans=tuple(spans),
            reference=reference,
            is_ended=self._is_ended(example.messages[-1], target),
        )

    def template(self, tools: bool) -> str:
        """Return the template for chats with or without tools, of those that the tokenizer has."""
        if tools not in self._named:
            if self.is_plain:
                self._named[tools] = PLAIN_CHAT
            else:
                self._named[tools] = self._tokenizer.get_chat_template(None, [{}] if tools else None)
        return self._named[tools]

    def reads_parts(self, template: str) -> bool:
        """Whether a template shows a message's text only if it is a list of parts, as for images."""
        if template not in self._read_parts:
            probe = [{"role": "user", "content": _SENTINEL}]
            shows_text, shows_parts = (self._shows(template, m) for m in (probe, content_as_parts(probe)))
            self._read_parts[template] = shows_parts and not shows_text
        return self._read_parts[template]

    def _shows(self, template: str, messages: Sequence[Message]) -> bool:
        try:
            return _SENTINEL in self.run(template, messages, None, {}, ask=True, mark=False)[0]
        except _REFUSALS:
            return False

    def run(
        self,
        template: str,
        messages: Sequence[Message],
        tools: Any,
        options: Mapping[str, Any],
        *,
        ask: bool,
        mark: bool,
    ) -> tuple[str, list[tuple[int, int]]]:
        """Return the template's text and the stretches that it marks as generated."""
        # Imported here: the command line reads data files and must not wait for transformers.
        from transformers.utils.chat_template_utils import render_jinja_template

        texts, marks = render_jinja_template(
            conversations=[messages],
            tools=tools,
            chat_template=template,
            return_assistant_tokens_mask=mark,
            add_generation_prompt=ask,
            **{**self._special_names, **options},
        )
        return texts[0], marks[0] if mark else []

    def _reference(self, example: Example, target: str) -> str:
        """Return the target as it is decoded: the content itself where nothing else is said."""
        for special in self._special_texts:
            target = target.replace(special, "")
        return example.target if target.strip() == example.target.strip() else target.strip()

    def _is_ended(self, message: Message, target: str) -> bool:
        """Whether the template writes something after the last message: its end of turn."""
        said = _answer(message)
        return not target.rstrip().endswith(said) if said else target.rstrip().endswith(self._ends)


def _answer(message: Message) -> str:
    """Return a message's content without the reasoning that it may hold."""
    return str(message.get("content") or "").rpartition(_THINK[1])[2].strip()


class _Chat:
    """One row, and its template."""

    def __init__(self, renderer: ChatRenderer, example: Example, where: str) -> None:
        self.renderer, self.example, self.where = renderer, example, where
        self.messages: list[Message] = [
            {key: message[key] for key in message if key != "weight"} for message in example.messages
        ]
        self.weights = [message.get("weight", 1) for message in example.messages]
        self.tools = list(example.tools) or None
        self.options = example.template_options
        try:
            self.template = renderer.template(bool(example.tools))
        except ValueError as error:
            raise DataError(f"{where}: the model's chat templates have no default: {error}") from None
        if renderer.reads_parts(self.template):
            self.messages = content_as_parts(self.messages)
        self._report_unread()

    def whole(self) -> tuple[str, list[tuple[int, int]] | None]:
        """Return the rendering of all messages, and its generation marks if the template has them."""
        marked = _MARK.search(self.template) is not None
        text, marks = self._render(self.messages, ask=False, mark=marked)
        if not marked:
            return text, None
        spoken = [
            weight
            for message, weight in zip(self.messages, self.weights, strict=True)
            if message["role"] == "assistant"
        ]
        if all(spoken):
            return text, marks
        if len(marks) != len(spoken):
            raise DataError(
                f"{self.where}: {len(spoken)} assistant messages have weights, and the chat template marks "
                f"{len(marks)} stretches as generated, so they cannot be matched. Drop the weights."
            )
        return text, [mark for mark, weight in zip(marks, spoken, strict=True) if weight]

    def prompt(self, count: int) -> str:
        """Return what inference sends after the first messages."""
        return self._render(self.messages[:count], ask=True)[0]

    def so_far(self, count: int) -> str:
        """Return the rendering of the first messages."""
        return self._render(self.messages[:count], ask=False)[0]

    def earlier_turns(self, prompt: str) -> list[tuple[int, int]]:
        """Return the earlier assistant turns that the prompt shows as they were generated."""
        spans: list[tuple[int, int]] = []
        hidden = False
        for place, message in enumerate(self.messages[:-1]):
            if message["role"] != "assistant" or not self.weights[place]:
                continue
            span = self._turn(prompt, place) if place else None
            if span is None:
                hidden = True
            else:
                spans.append(span)
        if hidden:
            self.renderer.notes[REWRITES] += 1
        return spans

    def _turn(self, prompt: str, place: int) -> tuple[int, int] | None:
        """Return where the prompt shows an earlier turn as it was generated; `None` if it does not."""
        try:
            before, after = self.prompt(place), self.so_far(place + 1)
        except DataError:
            # Some templates refuse to render the beginning of a chat that they render as a whole.
            return None
        if not prompt.startswith(after):
            # Some templates end a finished text with one more token, which no following turn shows.
            after = after.removesuffix(self.renderer.end_token)
        is_shown = prompt.startswith(before) and prompt.startswith(after) and len(after) > len(before)
        return (len(before), len(after)) if is_shown else None

    def check_shown(self, target: str, full: str) -> None:
        """Refuse a template that leaves out what the model should learn to say.

        Raises:
            DataError: the answer or a tool call is missing in the text.
        """
        answer = _answer(self.example.messages[-1])
        names = [
            str((call.get("function") or call).get("name", ""))
            for message in self.messages
            for call in message.get("tool_calls") or ()
        ]
        missing = [answer] if answer not in target else [name for name in names if name not in full]
        if missing:
            raise DataError(
                f"{self.where}: the model's chat template leaves out {missing[0]!r} of an assistant message: "
                "the model would be trained not to say it. Choose another model.name, or drop the row."
            )

    def without_text(self) -> str:
        """Return the rendering in which the last message's text is replaced."""
        last = self.messages[-1]
        changed = {
            key: _SENTINEL if isinstance(last[key], str) and key != "role" else last[key] for key in last
        }
        if isinstance(last.get("content"), list):
            changed["content"] = [{"type": "text", "text": _SENTINEL}]
        return self._render([*self.messages[:-1], changed], ask=False)[0]

    def _render(
        self, messages: list[Message], *, ask: bool, mark: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        # Some templates join a tool call's arguments as text; with an object they end in a TypeError.
        refusal: Exception | None = None
        for write in (list, arguments_as_text):
            try:
                return self.renderer.run(
                    self.template, write(messages), self.tools, self.options, ask=ask, mark=mark
                )
            except _REFUSALS as error:
                refusal = refusal or error
        raise DataError(
            f"{self.where}: the model's chat template refuses the messages: {refusal}. Change the row, or "
            "choose another model.name."
        )

    def _report_unread(self) -> None:
        """Refuse tool calls that the template does not show; note other keys that it does not."""
        keys = {key for message in self.messages for key in message} - {"role", "content"}
        unread = {key for key in keys if key not in self.template}
        if any(key in self.template for key in (*REASONING, _THINK[1])):
            # Reasoning is handed to the template under each of its names, and written into an open block.
            unread -= set(REASONING)
        if "tool_calls" in unread:
            raise DataError(
                f"{self.where} has tool calls, which the model's chat template does not show: the model "
                "would be trained not to call tools. Choose a model that calls tools, or drop the row."
            )
        if self.tools and "tools" not in self.template:
            unread.add("tools")
        if unread:
            self.renderer.notes[f"not shown by the model's chat template: {', '.join(sorted(unread))}"] += 1


def _align(chat: _Chat, prompt: str, full: str) -> tuple[int, str]:
    """Find where the target begins in the rendering of the whole chat.

    Returns:
        The position in `full`, and what must be written between the prompt and the text from there on.
    """
    if full.startswith(prompt):
        return len(prompt), ""
    before = chat.so_far(len(chat.messages) - 1)
    cue_start = shared_length(prompt, before)
    cue = prompt[cue_start:]
    text_start = shared_length(full, chat.without_text())
    shared = shared_length(prompt, full)
    if shared >= cue_start and cue:
        # They differ within the generation prompt: keep all of it.
        start = min(shared, max(text_start, cue_start))
        return start, _closing(chat, cue, full[start:])
    # They differ earlier, in turns that the template rewrites: find the generation prompt again.
    start = full.rfind(cue, 0, text_start) if cue else -1
    if start < 0:
        raise DataError(
            f"{chat.where}: the model's chat template renders earlier turns differently once later ones "
            "follow, and has no generation prompt by which the last one could be located. Make each row end "
            "with its only assistant message."
        )
    return start + len(cue), ""


def _closing(chat: _Chat, cue: str, target: str) -> str:
    """Return the end of a reasoning block that the prompt opens and the target does not close."""
    opening, closing = _THINK
    if closing in target or cue.rfind(opening) <= cue.rfind(closing):
        return ""
    last = chat.example.messages[-1]
    own = next((str(last[key]) for key in REASONING if last.get(key)), "")
    if not own:
        own = str(last.get("content") or "").rpartition(closing)[0].lstrip().removeprefix(opening)
    return f"{own.strip()}\n{closing}" + ("" if target[:1].isspace() else "\n\n")
