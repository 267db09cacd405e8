"""Chat templates of this project's own wording, with the traits that released models' templates have.

Each has a chat and what it must become: the text of all tokens, with « and » around those that get a loss.
The special tokens are invented; `⟦s⟧` begins a text and `⟦e⟧` is the tokenizer's end token.
"""

from dataclasses import dataclass, field
from typing import Any

from trainable.data.messages import with_role

Messages = list[dict[str, Any]]


def said(*texts: str, system: str | None = None) -> Messages:
    """Return a chat in which user and assistant take turns."""
    turns = [with_role("assistant" if place % 2 else "user", text) for place, text in enumerate(texts)]
    return [with_role("system", system), *turns] if system is not None else turns


TWO = said("q1", "a1", "q2", "a2")


@dataclass(frozen=True)
class Case:
    """A template, a chat, and what the chat must become.

    Attributes:
        trait: what the template does that others do not.
        equals_whole: whether the tokens are those of the rendering of the whole chat.
        asks_alike: whether the prompt equals that rendering's beginning.
        notes: words in what is reported about the file.
    """

    trait: str
    template: str | dict[str, str]
    expected: str
    messages: Messages = field(default_factory=lambda: list(TWO))
    tools: tuple[Any, ...] = ()
    equals_whole: bool = True
    notes: tuple[str, ...] = ()


BLOCKS = (
    "{% for m in messages %}⟦b⟧{{ m.role }}\n{{ m.content }}⟦/b⟧\n{% endfor %}"
    "{% if add_generation_prompt %}⟦b⟧assistant\n{% endif %}"
)

STRIPS_REASONING = (
    "{% set at = namespace(user=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set at.user = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}⟦b⟧{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 > at.user %}"
    "<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}"
    "{{ m.content }}⟦/b⟧\n{% endfor %}"
)
OPENS_REASONING = STRIPS_REASONING + "{% if add_generation_prompt %}⟦b⟧assistant\n<think>\n{% endif %}"
DROPS_REASONING = (
    "⟦s⟧{% for m in messages %}{% if m.role == 'assistant' %}⟦bot⟧{{ m.content.split('</think>')[-1] }}⟦e⟧"
    "{% else %}⟦user⟧{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}⟦bot⟧<think>\n{% endif %}"
)
CHANNELS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% if m.thinking and loop.last %}⟦go⟧assistant⟦ch⟧thought⟦is⟧{{ m.thinking }}⟦/b⟧{% endif %}"
    "⟦go⟧assistant⟦ch⟧final⟦is⟧{{ m.content }}{{ '⟦return⟧' if loop.last else '⟦/b⟧' }}"
    "{% else %}⟦go⟧{{ m.role }}⟦is⟧{{ m.content }}⟦/b⟧{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}⟦go⟧assistant{% endif %}"
)
REWRITES_TOOL_TURNS = (
    "{% for m in messages %}{% if m.tool_calls %}"
    "{% if not messages[-1].content or messages[-1].role != 'assistant' %}⟦go⟧assistant⟦ch⟧thought⟦is⟧"
    "{{ m.thinking }}⟦/b⟧{% endif %}⟦go⟧assistant to={{ m.tool_calls[0].function.name }}⟦is⟧"
    "{{ m.tool_calls[0].function.arguments | tojson }}⟦call⟧"
    "{% elif m.role == 'assistant' %}⟦go⟧assistant⟦ch⟧final⟦is⟧{{ m.content }}⟦return⟧"
    "{% else %}⟦go⟧{{ m.role }}⟦is⟧{{ m.content }}⟦/b⟧{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}⟦go⟧assistant{% endif %}"
)
CALLS = (
    "{% if tools %}⟦b⟧tools\n{{ tools | tojson }}⟦/b⟧\n{% endif %}"
    "{% for m in messages %}⟦b⟧{{ m.role }}\n{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}⟦/b⟧\n"
    "{% endfor %}{% if add_generation_prompt %}⟦b⟧assistant\n{% endif %}"
)

CALL = {"type": "function", "function": {"name": "wind", "arguments": {"at": "sea"}}}
TOOL = {"type": "function", "function": {"name": "wind"}}
TOOL_CHAT: Messages = [
    with_role("user", "q1"),
    {"role": "assistant", "thinking": "hm", "tool_calls": [CALL]},
    with_role("tool", "9 kt"),
    with_role("assistant", "a2"),
]
REASONED: Messages = [
    with_role("user", "q1"),
    with_role("assistant", "a1") | {"reasoning_content": "r1"},
    with_role("user", "q2"),
    with_role("assistant", "a2") | {"reasoning_content": "r2"},
]
HIDDEN = ("some earlier assistant turns get no loss",)

CASES = [
    Case(
        "blocks",
        BLOCKS,
        "⟦b⟧user\nq1⟦/b⟧\n⟦b⟧assistant\n«a1⟦/b⟧\n»⟦b⟧user\nq2⟦/b⟧\n⟦b⟧assistant\n«a2⟦/b⟧\n»",
    ),
    Case(
        "adds a default system prompt",
        "{% if messages[0].role != 'system' %}⟦b⟧system\nBe brief.⟦/b⟧\n{% endif %}" + BLOCKS,
        "⟦b⟧system\nBe brief.⟦/b⟧\n⟦b⟧user\nq1⟦/b⟧\n⟦b⟧assistant\n«a1⟦/b⟧\n»"
        "⟦b⟧user\nq2⟦/b⟧\n⟦b⟧assistant\n«a2⟦/b⟧\n»",
    ),
    Case(
        "begins with BOS and strips blanks",
        "{{ bos_token }}{% for m in messages %}⟦h⟧{{ m.role }}⟦/h⟧\n\n{{ m.content | trim }}⟦/b⟧{% endfor %}"
        "{% if add_generation_prompt %}⟦h⟧assistant⟦/h⟧\n\n{% endif %}",
        "⟦s⟧⟦h⟧user⟦/h⟧\n\nq1⟦/b⟧⟦h⟧assistant⟦/h⟧\n\n«a1⟦/b⟧»",
        said(" q1 ", "  a1\n"),
    ),
    Case(
        "has no generation prompt, and puts the system prompt into the first user turn",
        "{% if messages[0].role == 'system' %}{% set first = messages[0].content ~ ' | ' %}"
        "{% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
        "{% for m in turns %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('turns must alternate') }}{% endif %}"
        "{% if m.role == 'user' %}{{ bos_token }}[Q] {{ first if loop.first else '' }}{{ m.content }} [/Q]"
        "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}",
        "⟦s⟧[Q] S | q1 [/Q]« a1 ⟦e⟧»⟦s⟧[Q] q2 [/Q]« a2 ⟦e⟧»",
        said("q1", "a1", "q2", "a2", system="S"),
    ),
    Case(
        "renames roles and ends turns with a token of its own",
        "{{ bos_token }}"
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% for m in messages %}⟦b⟧{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content | trim }}⟦/b⟧\n{% endfor %}{% if add_generation_prompt %}⟦b⟧model\n{% endif %}",
        "⟦s⟧⟦b⟧user\nq1⟦/b⟧\n⟦b⟧model\n«a1⟦/b⟧\n»⟦b⟧user\nq2⟦/b⟧\n⟦b⟧model\n«a2⟦/b⟧\n»",
    ),
    Case(
        "ends a finished text with the end token",
        "{% for m in messages %}⟦{{ m.role }}⟧\n{{ m.content }}⟦/b⟧\n{% endfor %}"
        "{% if add_generation_prompt %}⟦assistant⟧\n{% else %}{{ eos_token }}{% endif %}",
        "⟦user⟧\nq1⟦/b⟧\n⟦assistant⟧\n«a1⟦/b⟧\n»⟦user⟧\nq2⟦/b⟧\n⟦assistant⟧\n«a2⟦/b⟧\n⟦e⟧»",
    ),
    Case(
        "removes the reasoning of earlier turns",
        STRIPS_REASONING + "{% if add_generation_prompt %}⟦b⟧assistant\n{% endif %}",
        "⟦b⟧user\nq1⟦/b⟧\n⟦b⟧assistant\na1⟦/b⟧\n⟦b⟧user\nq2⟦/b⟧\n"
        "⟦b⟧assistant\n«<think>\nr2\n</think>\n\na2⟦/b⟧\n»",
        REASONED,
        notes=HIDDEN,
    ),
    Case(
        "adds an empty reasoning block to the last turn",
        STRIPS_REASONING + "{% if add_generation_prompt %}⟦b⟧assistant\n{% endif %}",
        "⟦b⟧user\nq1⟦/b⟧\n⟦b⟧assistant\n«<think>\n\n</think>\n\na1⟦/b⟧\n»",
        said("q1", "a1"),
    ),
    Case(
        "opens the reasoning block in the generation prompt",
        OPENS_REASONING,
        "⟦b⟧user\nq1⟦/b⟧\n⟦b⟧assistant\na1⟦/b⟧\n⟦b⟧user\nq2⟦/b⟧\n"
        "⟦b⟧assistant\n<think>\n«r2\n</think>\n\na2⟦/b⟧\n»",
        REASONED,
        notes=HIDDEN,
    ),
    Case(
        "opens a reasoning block that the whole chat does not have",
        DROPS_REASONING,
        "⟦s⟧⟦user⟧q1⟦bot⟧a1⟦e⟧⟦user⟧q2⟦bot⟧<think>\n«\n</think>\n\na2⟦e⟧»",
        equals_whole=False,
        notes=HIDDEN,
    ),
    Case(
        "removes reasoning that the content holds",
        DROPS_REASONING,
        "⟦s⟧⟦user⟧q1⟦bot⟧<think>\n«long way\n</think>\n\na1⟦e⟧»",
        said("q1", "<think>\nlong way\n</think>\n\na1"),
        equals_whole=False,
    ),
    Case(
        "removes an answer that begins like the generation prompt",
        DROPS_REASONING,
        "⟦s⟧⟦user⟧q1⟦bot⟧<think>\n«\n</think>\n\n<thin ice>⟦e⟧»",
        said("q1", "<thin ice>"),
        equals_whole=False,
    ),
    Case(
        "shows an empty reasoning block that the generation prompt leaves open",
        "{% for m in messages %}⟦b⟧{{ m.role }}\n{{ '<think></think>' if m.role == 'assistant' else '' }}"
        "{{ m.content }}⟦/b⟧\n{% endfor %}{% if add_generation_prompt %}⟦b⟧assistant\n<think>\n{% endif %}",
        "⟦b⟧user\nq1⟦/b⟧\n⟦b⟧assistant\n<think></think>a1⟦/b⟧\n⟦b⟧user\nq2⟦/b⟧\n"
        "⟦b⟧assistant\n<think>\n«</think>a2⟦/b⟧\n»",
        equals_whole=False,
        notes=HIDDEN,
    ),
    Case(
        "ends the generation prompt with an empty thought that the whole chat drops",
        "{% for m in messages %}⟦b⟧{{ m.role }}\n{{ m.content }}⟦/b⟧\n{% endfor %}"
        "{% if add_generation_prompt %}⟦b⟧assistant\n⟦th⟧⟦/th⟧{% endif %}",
        "⟦b⟧user\nq1⟦/b⟧\n⟦b⟧assistant\n⟦th⟧⟦/th⟧«a1⟦/b⟧\n»",
        said("q1", "a1"),
        equals_whole=False,
    ),
    Case(
        "speaks in channels and ends the last turn otherwise",
        CHANNELS,
        "⟦go⟧user⟦is⟧q1⟦/b⟧⟦go⟧assistant⟦ch⟧final⟦is⟧a1⟦/b⟧⟦go⟧user⟦is⟧q2⟦/b⟧"
        "⟦go⟧assistant«⟦ch⟧thought⟦is⟧r2⟦/b⟧⟦go⟧assistant⟦ch⟧final⟦is⟧a2⟦return⟧»",
        REASONED,
        notes=HIDDEN,
    ),
    Case(
        "rewrites tool turns once there is an answer",
        REWRITES_TOOL_TURNS,
        "⟦go⟧user⟦is⟧q1⟦/b⟧⟦go⟧assistant«⟦ch⟧thought⟦is⟧hm⟦/b⟧"
        '⟦go⟧assistant to=wind⟦is⟧{"at": "sea"}⟦call⟧»⟦go⟧tool⟦is⟧9 kt⟦/b⟧'
        "⟦go⟧assistant«⟦ch⟧final⟦is⟧a2⟦return⟧»",
        TOOL_CHAT,
        equals_whole=False,
    ),
    Case(
        "begins with tokens that are not BOS and ends no turn",
        "⟦mask⟧⟦sop⟧{% for m in messages %}⟦{{ m.role }}⟧\n{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}⟦assistant⟧{% endif %}",
        "⟦mask⟧⟦sop⟧⟦user⟧\nq1⟦assistant⟧«\na1»⟦user⟧\nq2⟦assistant⟧«\na2⟦e⟧»",
        equals_whole=False,
    ),
    Case(
        "marks what is generated",
        "{% for m in messages %}⟦b⟧{{ m.role }}\n{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}⟦/b⟧{% endgeneration %}{% else %}{{ m.content }}⟦/b⟧{% endif %}\n"
        "{% endfor %}{% if add_generation_prompt %}⟦b⟧assistant\n{% endif %}",
        "⟦b⟧user\nq1⟦/b⟧⟦b⟧assistant\n«a1⟦/b⟧»⟦b⟧user\nq2⟦/b⟧⟦b⟧assistant\n«a2⟦/b⟧»",
    ),
    Case(
        "marks turns whose reasoning it removes",
        "{% for m in messages %}⟦b⟧{{ m.role }}\n{% if m.role == 'assistant' %}{%- generation -%}"
        "{{ '<think>' ~ m.reasoning_content ~ '</think>' if loop.last else '' }}{{ m.content }}⟦/b⟧"
        "{%- endgeneration -%}{% else %}{{ m.content }}⟦/b⟧{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}⟦b⟧assistant\n{% endif %}",
        "⟦b⟧user\nq1⟦/b⟧⟦b⟧assistant\n«a1⟦/b⟧»⟦b⟧user\nq2⟦/b⟧⟦b⟧assistant\n«<think>r2</think>a2⟦/b⟧»",
        REASONED,
    ),
    Case(
        "is a list of named templates, without tools",
        {"default": BLOCKS, "tool_use": CALLS},
        "⟦b⟧user\nq1⟦/b⟧\n⟦b⟧assistant\n«a1⟦/b⟧\n»",
        said("q1", "a1"),
    ),
    Case(
        "is a list of named templates, with tools",
        {"default": BLOCKS, "tool_use": CALLS},
        '⟦b⟧tools\n[{"type": "function", "function": {"name": "wind"}}]⟦/b⟧\n'
        "⟦b⟧user\nq1⟦/b⟧\n⟦b⟧assistant\n"
        '«<call>{"name": "wind", "arguments": {"at": "sea"}}</call>⟦/b⟧\n»'
        "⟦b⟧tool\n9 kt⟦/b⟧\n⟦b⟧assistant\n«a2⟦/b⟧\n»",
        [{key: m[key] for key in m if key != "thinking"} for m in TOOL_CHAT],
        (TOOL,),
    ),
    Case(
        "joins a tool call's arguments as text",
        "{% for m in messages %}{% if m.tool_calls %}⟦call⟧{{ m.tool_calls[0].function.name + ':' + "
        "m.tool_calls[0].function.arguments }}⟦/b⟧{% else %}⟦{{ m.role }}⟧{{ m.content }}⟦/b⟧{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{% endif %}",
        '⟦user⟧q1⟦/b⟧«⟦call⟧wind:{"at": "sea"}⟦/b⟧»',
        [with_role("user", "q1"), {"role": "assistant", "tool_calls": [CALL]}],
    ),
    Case(
        "shows content only in parts",
        "{% for m in messages %}{{ m.role }}: {% for part in m.content %}{% if part.type == 'text' %}"
        "{{ part.text }}{% endif %}{% endfor %}⟦/b⟧\n{% endfor %}"
        "{{ 'assistant:' if add_generation_prompt else '' }}",
        "user: q1⟦/b⟧\nassistant:« a1⟦/b⟧\n»user: q2⟦/b⟧\nassistant:« a2⟦/b⟧\n»",
    ),
    Case(
        "writes the roles as text and ends answers with the end token",
        "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}"
        "{{ eos_token if m.role == 'assistant' else '\n\n' }}{% endfor %}"
        "{{ '### assistant:\n' if add_generation_prompt else '' }}",
        "### user:\nq1\n\n### assistant:\n«a1⟦e⟧»### user:\nq2\n\n### assistant:\n«a2⟦e⟧»",
    ),
    Case(
        "numbers its turns and does not read the name",
        "{% for m in messages %}⟦b⟧{{ loop.index }} {{ m.role }}\n{{ m.content }}⟦/b⟧\n{% endfor %}"
        "{% if add_generation_prompt %}⟦b⟧{{ messages | length + 1 }} assistant\n{% endif %}",
        "⟦b⟧1 user\nq1⟦/b⟧\n⟦b⟧2 assistant\n«a1⟦/b⟧\n»",
        [with_role("user", "q1") | {"name": "Ada"}, with_role("assistant", "a1")],
        notes=("not shown by the model's chat template: name",),
    ),
]
