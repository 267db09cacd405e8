"""Base models in GGUF files, llama.cpp's format: configuration, tokenizer and quantized weights in one file.

transformers reads the file with the `gguf` package. The weights become plain tensors when they are loaded, so
that such a model is trained, packed and merged as any other; it needs the memory of its `model.dtype`.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.utils import quantization_config

from trainable.errors import ModelError

_MAGIC = b"GGUF"


def check_gguf(file: Path) -> None:
    """Check that a file is a GGUF file, and that it can be read here.

    Raises:
        ModelError: it is not, or the `gguf` package is missing.
    """
    try:
        with file.open("rb") as content:
            begin = content.read(len(_MAGIC))
    except OSError as error:
        raise ModelError(f"model.name '{file}' cannot be read: {error.strerror}.") from None
    if begin != _MAGIC:
        raise ModelError(
            f"model.name '{file}' is not a GGUF file: its first bytes are {begin!r}, not {_MAGIC!r}."
        )
    if find_spec("gguf") is None:
        raise ModelError(
            f"model.name '{file}' needs the gguf package: pip install 'loratune[gguf]', "
            "or give a folder with config.json."
        )


def count_weights(file: Path) -> int:
    """Return the number of a model's weights, from its tensors' shapes.

    Raises:
        ValueError: the file is damaged.
    """
    from gguf import GGUFReader

    return sum(int(tensor.n_elements) for tensor in GGUFReader(file).tensors)


def plain_weights() -> dict[str, Any]:
    """Return the option by which transformers unpacks the weights; versions without it always do."""
    kind = getattr(quantization_config, "GgufConfig", None)
    return {} if kind is None else {"quantization_config": kind(dequantize=True)}


def drop_added_tokens(tokenizer: PreTrainedTokenizerFast, embeddings: int) -> None:
    """Remove the tokens that the model has no embedding for and that its text does not need.

    transformers builds a byte-level vocabulary as GPT-2's, with GPT-2's unknown token even where the file
    has none.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    needed = set(tokenizer.all_special_tokens)
    state["added_tokens"] = [
        token for token in state["added_tokens"] if token["id"] < embeddings or token["content"] in needed
    ]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
