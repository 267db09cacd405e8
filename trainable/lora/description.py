"""What a base model and an adapter over it are, in numbers that a person compares runs by."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trainable.config import LoraConfig
from trainable.lora.targets import plan_adapter


@dataclass(frozen=True)
class ModelDescription:
    """A base model without its weights.

    Attributes:
        name: as configured.
        architecture: the class's name in transformers.
        parameters: of the base model, tied ones counted once.
        layers: `(d_in, d_out)` of every layer that an adapter can be added to, by its dotted name.
        left_out: linear layers that no adapter can be added to, each with the reason.
        stacked: experts' and routers' weights, which are not linear layers and get no adapter.
        hidden_size: the width of the residual stream, if its configuration says so.
    """

    name: str
    architecture: str
    parameters: int
    layers: Mapping[str, tuple[int, int]]
    left_out: Mapping[str, str] = field(default_factory=dict)
    stacked: tuple[str, ...] = ()
    hidden_size: int | None = None

    def with_adapter(self, lora: LoraConfig) -> dict[str, Any]:
        """Return what `lora` makes of it: counts, and one line of text that states them.

        Raises:
            ConfigError: `lora` names no layer.
        """
        plan = plan_adapter(self.layers, lora, self.left_out)
        trainable = sum(sum(self.layers[name]) * rank for name, rank in plan.ranks.items())
        kinds = list(dict.fromkeys(name.rpartition(".")[2] for name in plan.targets))
        share = trainable / (trainable + self.parameters)
        notes = self.notes()
        return {
            "base": self.name,
            "architecture": self.architecture,
            "parameters": self.parameters,
            "adapted_layers": len(plan.targets),
            "adapted_kinds": kinds,
            "trainable_parameters": trainable,
            "not_adapted": notes,
            "text": (
                f"{self.name} ({self.architecture}), {self.parameters:,} parameters; LoRA r={lora.r}, "
                f"alpha={lora.alpha:g} on {len(plan.targets)} layers ({', '.join(kinds)}): "
                f"{trainable:,} trainable parameters ({share:.2%})" + "".join(f"; {note}" for note in notes)
            ),
        }

    def notes(self) -> list[str]:
        """Return what gets no adapter although a reader may expect it to, a line for each reason."""
        found = []
        if self.stacked:
            found.append(
                f"not adapted: experts and routers ({', '.join(self.stacked)}), which PEFT adapts with "
                "target_parameters"
            )
        for reason in dict.fromkeys(self.left_out.values()):
            names = [name for name, other in self.left_out.items() if other == reason]
            found.append(f"not adapted: {', '.join(kinds_of(names))} ({reason})")
        return found


def kinds_of(names: Iterable[str]) -> list[str]:
    """Return each layer's name once, without the number of its block and what stands before it."""
    return list(dict.fromkeys(re.sub(r"^.*?\.\d+\.", "", name) for name in names))
