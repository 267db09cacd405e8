"""Which layers of a model `lora.target_modules` means."""

import re
from collections.abc import Iterable

from trainable.errors import ConfigError, nearest


def resolve_targets(layers: Iterable[str], target_modules: str | Iterable[str]) -> tuple[str, ...]:
    """Return the names of the layers that `lora.target_modules` means, in the model's order.

    A word matches a layer's whole name or its last part, as in PEFT.

    Raises:
        ConfigError: a word matches no layer.
    """
    names = list(layers)
    if target_modules == "all-linear":
        return tuple(names)
    words = list(target_modules)
    for word in words:
        if not any(_matches(name, word) for name in names):
            endings = sorted({name.rpartition(".")[2] for name in names})
            raise ConfigError(
                f"lora.target_modules: '{word}' is no linear layer of this model.{nearest(word, endings)} "
                f"Allowed: all-linear, or any of {', '.join(endings)}."
            )
    return tuple(name for name in names if any(_matches(name, word) for word in words))


def _matches(name: str, word: str) -> bool:
    return re.search(rf"(^|\.){re.escape(word)}$", name) is not None
