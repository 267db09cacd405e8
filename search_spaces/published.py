"""The learning rate to begin with, by the formula of the Tinker cookbook (Thinking Machines Lab, 2025).

    rate = 5e-5 * 10 * (2000 / hidden_size) ** P

5e-5 is a usual rate of full fine-tuning, 10 the factor by which the best LoRA rate exceeds it, and P is
fitted for each family of base models: 0.0775 for Qwen, 0.781 for Llama. It holds for alpha = 32. For a family
without a published exponent, the factor of the size is left out.
"""

_FULL_FINE_TUNING_RATE = 5e-5
_LORA_FACTOR = 10
_REFERENCE_SIZE = 2000
_EXPONENTS = {"Llama": 0.781, "Qwen": 0.0775}
"""By what the name of the model's class begins with."""

PUBLISHED = "published"
"""The word that stands for the formula's rate in an axis's `first`."""


def published_rate(architecture: str, hidden_size: int | None) -> float:
    """Return the learning rate to begin with for a base model, to three significant digits.

    Args:
        architecture: its class in transformers, such as `Qwen2ForCausalLM`.
        hidden_size: the width of its residual stream; `None` if it is not known.
    """
    family = next((name for name in _EXPONENTS if architecture.startswith(name)), None)
    rate = _FULL_FINE_TUNING_RATE * _LORA_FACTOR
    if family is not None and hidden_size:
        rate *= (_REFERENCE_SIZE / hidden_size) ** _EXPONENTS[family]
    return float(f"{rate:.3g}")
