"""An adapter on its base model, as transformers and PEFT load it."""

import warnings
from pathlib import Path

from peft import PeftModel

from trainable.model.base import BaseModel


def with_adapter(base: BaseModel, adapter: Path) -> PeftModel:
    """Return the base model with an adapter in PEFT's format on it, in evaluation mode."""
    with warnings.catch_warnings():
        # PEFT calls what transformers deprecates.
        warnings.simplefilter("ignore", FutureWarning)
        return PeftModel.from_pretrained(base.module, adapter).eval()
