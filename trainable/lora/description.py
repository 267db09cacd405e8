"""What a base model and an adapter over it are, in numbers that a person compares runs by."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainable.config import LoraConfig
from trainable.lora.targets import resolve_targets


@dataclass(frozen=True)
class ModelDescription:
    """A base model without its weights.

    Attributes:
        name: as configured.
        architecture: the class's name in transformers.
        parameters: of the base model, tied ones counted once.
        layers: `(d_in, d_out)` of every layer that an adapter can be added to, by its dotted name.
    """

    name: str
    architecture: str
    parameters: int
    layers: Mapping[str, tuple[int, int]]

    def with_adapter(self, lora: LoraConfig) -> dict[str, Any]:
        """Return what `lora` makes of it: counts, and one line of text that tells them.

        Raises:
            ConfigError: `lora.target_modules` names no layer.
        """
        targets = resolve_targets(self.layers, lora.target_modules)
        trainable = sum(sum(self.layers[name]) * lora.r for name in targets)
        kinds = list(dict.fromkeys(name.rpartition(".")[2] for name in targets))
        share = trainable / (trainable + self.parameters)
        return {
            "base": self.name,
            "architecture": self.architecture,
            "parameters": self.parameters,
            "adapted_layers": len(targets),
            "adapted_kinds": kinds,
            "trainable_parameters": trainable,
            "text": (
                f"{self.name} ({self.architecture}), {self.parameters:,} parameters; LoRA r={lora.r}, "
                f"alpha={lora.alpha:g} on {len(targets)} layers ({', '.join(kinds)}): "
                f"{trainable:,} trainable parameters ({share:.2%})"
            ),
        }
