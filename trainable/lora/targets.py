"""What an adapter consists of: the layers that `lora` means, and the rank and the scale at each.

The rules are PEFT's. A word names a layer by its whole name or its last parts; `regex:` starts a pattern that
a whole name must match; a key of `rank_pattern` or `alpha_pattern` is a pattern for the end of a name, and
the first that matches counts.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from trainable.config import LoraConfig
from trainable.config.sections import REGEX
from trainable.errors import ConfigError, nearest

_LAYER_NUMBER = re.compile(r".*?\.[^.]*\.(\d+)\.")
"""The number of the block that a layer is in: the first number in its name, as in PEFT."""

ValueT = TypeVar("ValueT")


def adapter_scale(rank: int, alpha: float, use_rslora: bool) -> float:
    """Return what B A x is multiplied by: alpha / r, or alpha / sqrt(r) for rsLoRA (Kalajdzievski, 2023)."""
    return alpha / math.sqrt(rank) if use_rslora else alpha / rank


@dataclass(frozen=True)
class AdapterPlan:
    """An adapter's layers, in the model's order.

    Attributes:
        ranks: of each layer, by its dotted name.
        alphas: likewise.
        scales: likewise; what B A x is multiplied by.
    """

    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    scales: Mapping[str, float]

    @property
    def targets(self) -> tuple[str, ...]:
        """The layers' names."""
        return tuple(self.ranks)

    @property
    def rank(self) -> int:
        """The largest rank."""
        return max(self.ranks.values())


def plan_adapter(
    layers: Iterable[str], lora: LoraConfig, left_out: Mapping[str, str] | None = None
) -> AdapterPlan:
    """Return the adapter that `lora` means.

    Args:
        layers: names of the layers that can be adapted, in the model's order.
        lora: targets, exclusions, ranks and alphas.
        left_out: linear layers that cannot be adapted, each with the reason.

    Raises:
        ConfigError: a word or pattern matches no layer, or nothing is left to adapt.
    """
    names = list(layers)
    left_out = left_out or {}
    chosen = _select("lora.target_modules", names, lora.target_modules, left_out)
    if lora.exclude_modules:
        excluded = set(_select("lora.exclude_modules", names, lora.exclude_modules, {}, left_out))
        chosen = [name for name in chosen if name not in excluded]
    if lora.layers_to_transform is not None:
        wanted = set(lora.layers_to_transform)
        if missing := wanted - {_layer_number(name) for name in names}:
            raise ConfigError(f"lora.layers_to_transform: the model has no layer number {min(missing)}.")
        chosen = [name for name in chosen if _layer_number(name) in wanted]
    if not chosen:
        raise ConfigError(
            "lora: target_modules, exclude_modules and layers_to_transform together leave no layer to adapt."
        )
    ranks = {name: _by_pattern("rank_pattern", lora.rank_pattern, name, lora.r) for name in chosen}
    alphas = {name: _by_pattern("alpha_pattern", lora.alpha_pattern, name, lora.alpha) for name in chosen}
    for key, patterns in (("rank_pattern", lora.rank_pattern), ("alpha_pattern", lora.alpha_pattern)):
        for pattern in patterns:
            if not any(_ends_with(pattern, name, key) for name in chosen):
                raise ConfigError(f"lora.{key}: '{pattern}' matches no adapted layer.{_allowed(chosen)}")
    scales = {name: adapter_scale(ranks[name], alphas[name], lora.use_rslora) for name in chosen}
    return AdapterPlan(ranks, alphas, scales)


def _select(
    key: str,
    names: list[str],
    wanted: Literal["all-linear"] | list[str],
    left_out: Mapping[str, str],
    ignored: Iterable[str] = (),
) -> list[str]:
    """Return the names that `wanted` means; `ignored` may be meant as well, and are not returned."""
    if wanted == "all-linear":
        return names
    for word in wanted:
        if any(_matches(name, word, key) for name in (*names, *ignored)):
            continue
        for name, reason in left_out.items():
            if _matches(name, word, key):
                raise ConfigError(f"{key}: '{word}' cannot be adapted in this model ('{name}': {reason}).")
        endings = sorted({name.rpartition(".")[2] for name in names})
        raise ConfigError(
            f"{key}: '{word}' is no linear layer of this model.{nearest(word, endings)} "
            f"Allowed: all-linear, any of {', '.join(endings)}, or {REGEX}PATTERN for whole names."
        )
    return [name for name in names if any(_matches(name, word, key) for word in wanted)]


def _matches(name: str, word: str, key: str) -> bool:
    if word.startswith(REGEX):
        return _compiled(word.removeprefix(REGEX), key).fullmatch(name) is not None
    return name == word or name.endswith(f".{word}")


def _by_pattern(key: str, patterns: Mapping[str, ValueT], name: str, default: ValueT) -> ValueT:
    return next((value for pattern, value in patterns.items() if _ends_with(pattern, name, key)), default)


def _ends_with(pattern: str, name: str, key: str) -> bool:
    return _compiled(rf"(.*\.)?({pattern})$", f"lora.{key}").match(name) is not None


def _compiled(pattern: str, key: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{key}: '{pattern}' is not a regular expression: {error}.") from error


def _layer_number(name: str) -> int | None:
    match = _LAYER_NUMBER.match(name)
    return int(match[1]) if match else None


def _allowed(names: Iterable[str]) -> str:
    return f" Adapted: {', '.join(sorted({name.rpartition('.')[2] for name in names}))}."
