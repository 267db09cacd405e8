"""The frozen base model: any causal language model of transformers', or the built-in small one.

What cannot be found or loaded ends in one `ModelError` within seconds: the hub is asked once and briefly.
"""

import contextlib
import functools
import io
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

import huggingface_hub
import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging as transformers_logging

from trainable.config import ModelConfig
from trainable.config.sections import is_gguf
from trainable.errors import ModelError, nearest
from trainable.files import sha256_of
from trainable.model.builtin import Recipe, build
from trainable.model.gguf import check_gguf, drop_added_tokens, plain_weights
from trainable.model.identity import fingerprint

_HUB_TIMEOUT_S = 5.0

BUILTIN = {"builtin:tiny": Recipe()}
"""The models that need no hub, by name."""


@dataclass(frozen=True)
class BaseModel:
    """A loaded base model.

    Attributes:
        module: frozen, in evaluation mode, on its device.
        tokenizer: with a padding token.
        name_or_path: what `AutoModelForCausalLM.from_pretrained` accepts, or a GGUF file's path.
        identity: what the weights are, wherever they lie; by default a fingerprint of the module.
    """

    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    name_or_path: str
    identity: str = ""

    def __post_init__(self) -> None:
        """Take the fingerprint before an engine wraps the module."""
        if not self.identity:
            object.__setattr__(self, "identity", fingerprint(self.module))


def _silent(text: str) -> None:
    del text


def pick_device(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device to train on.

    Raises:
        ModelError: `cuda` is asked for and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ModelError("engine.device 'cuda': torch sees no GPU here. Set engine.device to auto or cpu.")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def resolve(model: ModelConfig, report: Callable[[str], None] = _silent) -> str:
    """Return a hub name, a folder or a GGUF file that can be loaded; a missing built-in model is built.

    Raises:
        ModelError: there is no such model, or it is not a causal language model.
    """
    if model.name.startswith("builtin:"):
        if model.name not in BUILTIN:
            raise ModelError(
                f"model.name '{model.name}' is no built-in model.{nearest(model.name, BUILTIN)} "
                f"Allowed: {', '.join(BUILTIN)}, a hub name, a local folder, or a GGUF file."
            )
        return str(build(BUILTIN[model.name], report))
    model = model.absolute()
    if is_gguf(model.name):
        check_gguf(Path(model.name).expanduser())
    config = _load(AutoConfig, model)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(
            f"model.name '{model.name}' is a {type(config).__name__.removesuffix('Config')}, "
            "which is no causal language model. Give one that AutoModelForCausalLM loads."
        )
    return model.name


def load_tokenizer(model: ModelConfig) -> PreTrainedTokenizerFast:
    """Return the model's tokenizer; one without a padding token pads with its end token.

    Raises:
        ModelError: as in `resolve`, or the tokenizer has no end token, which every target ends with.
    """
    return _tokenizer(model.model_copy(update={"name": resolve(model)}))


def load_base(model: ModelConfig, device: torch.device, report: Callable[[str], None] = _silent) -> BaseModel:
    """Load the base model, frozen, onto `device`.

    Raises:
        ModelError: it cannot be found, is not a causal language model, or 4-bit loading is not possible here.
    """
    name = resolve(model, report)
    found = model.model_copy(update={"name": name})
    dtype = model.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device.type == "cuda" else "float32"
    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "device_map": {"": device}}
    if model.attn_implementation is not None:
        options["attn_implementation"] = model.attn_implementation
    if is_gguf(name):
        if model.load_in_4bit:
            raise ModelError(
                f"model.load_in_4bit does not apply to a GGUF file ('{name}'): its weights are unpacked when "
                "they are loaded. Set it to false."
            )
        options |= plain_weights()
    elif model.load_in_4bit:
        options["quantization_config"] = _four_bit(device)
    module = _load(AutoModelForCausalLM, found, **options)
    module.eval().requires_grad_(False)
    tokenizer = _tokenizer(found)
    if is_gguf(name):
        drop_added_tokens(tokenizer, module.get_input_embeddings().weight.shape[0])
    _check_vocabulary(found, module, tokenizer)
    return BaseModel(module, tokenizer, name, _identity(model.name, name))


def _identity(wanted: str, name: str) -> str:
    """Return the identity of a model that has one besides the fingerprint of its weights."""
    if wanted in BUILTIN:
        # The built-in model is trained where it is used, and rounds as that machine does.
        return f"{wanted}@{BUILTIN[wanted].version}"
    return f"gguf:{sha256_of(Path(name))}" if is_gguf(name) else ""


def _check_vocabulary(
    found: ModelConfig, module: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Refuse a tokenizer with tokens that the model has no embedding for; only its padding is replaced.

    Raises:
        ModelError: names the tokens.
    """
    embedded = module.get_input_embeddings().weight.shape[0]
    padding = tokenizer.pad_token
    if tokenizer.pad_token_id >= embedded:
        tokenizer.pad_token = tokenizer.eos_token
    beyond = [token for token, number in tokenizer.get_vocab().items() if number >= embedded]
    if wrong := sorted(token for token in beyond if token != padding or padding == tokenizer.eos_token):
        shown = ", ".join(repr(token) for token in wrong[:3]) + (", ..." if len(wrong) > 3 else "")
        raise ModelError(
            f"model.name '{found.name}': its tokenizer has {len(wrong)} tokens ({shown}) beyond the model's "
            f"{embedded} embeddings. Resize the model's embeddings, or give the tokenizer of its training."
        )


def _tokenizer(found: ModelConfig) -> PreTrainedTokenizerFast:
    tokenizer = _load(AutoTokenizer, found)
    if tokenizer.eos_token is None:
        raise ModelError(
            f"model.name '{found.name}' has a tokenizer without an end token, so texts could not end. "
            "Set eos_token in its tokenizer_config.json, or give another model."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


@functools.cache
def _hub_answers() -> bool:
    """Whether the hub can be reached: asked once and briefly, where transformers would retry for minutes."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    host = urlsplit(huggingface_hub.constants.ENDPOINT)
    if getproxies().get(host.scheme):
        return True
    port = host.port or (443 if host.scheme == "https" else 80)
    try:
        socket.create_connection((host.hostname, port), timeout=_HUB_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _four_bit(device: torch.device) -> BitsAndBytesConfig:
    try:
        import bitsandbytes  # noqa: F401  (checked here, because transformers' own message is a traceback)
    except ImportError:
        raise ModelError(
            "model.load_in_4bit needs bitsandbytes: pip install 'loratune[quant]', or set it to false."
        ) from None
    if device.type != "cuda":
        raise ModelError(f"model.load_in_4bit needs a GPU; the device is '{device}'. Set it to false.")
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Switch log lines, progress bars and telemetry off; the program's own settings come back afterwards."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    telemetry_off = huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = telemetry_off
        if bars:
            transformers_logging.enable_progress_bar()


def _load(kind: Any, model: ModelConfig, **options: Any) -> Any:
    """Call `kind.from_pretrained` once, quietly, and turn what it raises into one message."""
    source = Path(model.name)
    if is_gguf(source):
        options["gguf_file"] = source.name
        source = source.parent
    if not source.is_dir() and not _hub_answers():
        options["local_files_only"] = True
    # Reading a GGUF file shows a progress bar that no setting of transformers switches off.
    unseen = contextlib.redirect_stderr(io.StringIO()) if is_gguf(model.name) else contextlib.nullcontext()
    try:
        # Without trust_remote_code=False, transformers asks on the terminal whether to run the model's code.
        with quiet(), unseen:
            return kind.from_pretrained(
                str(source), revision=model.revision, trust_remote_code=False, **options
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError, struct.error) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" .:")
        raise ModelError(
            f"model.name '{model.name}' cannot be loaded: {reason}. Allowed: {', '.join(BUILTIN)}, the name "
            "of a model on the hub (needs a connection, and access to it), a GGUF file, or a folder with "
            "config.json."
        ) from error
