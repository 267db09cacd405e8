"""An adapter on its base model, as transformers and PEFT load it."""

import warnings
from pathlib import Path

from peft import PeftModel
from safetensors import SafetensorError

from trainable.errors import CheckpointError
from trainable.model.base import BaseModel

_MOST_CHARS = 200


def with_adapter(base: BaseModel, adapter: Path) -> PeftModel:
    """Return the base model with an adapter in PEFT's format on it, in evaluation mode.

    Raises:
        CheckpointError: the adapter is incomplete, or corrupt.
    """
    with warnings.catch_warnings():
        # PEFT calls what transformers deprecates.
        warnings.simplefilter("ignore", FutureWarning)
        try:
            return PeftModel.from_pretrained(base.module, adapter).eval()
        except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:_MOST_CHARS].rstrip(".")
            raise CheckpointError(
                f"the adapter in '{adapter}' cannot be loaded: {reason}. Use another trial's."
            ) from None
