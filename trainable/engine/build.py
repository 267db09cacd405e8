"""An engine from a configuration: the base model on its device, the tokens, and the budget of a pass."""

from collections.abc import Callable

import torch

from trainable.config import TrialConfig
from trainable.data import check_files, prepare
from trainable.engine import Engine
from trainable.engine import memory_fit as memory
from trainable.errors import ModelError
from trainable.model import load_base, pick_device


def build_engine(
    config: TrialConfig, say: Callable[[str], None], max_cores: int | None = None
) -> tuple[Engine, int]:
    """Load what `config` names.

    Args:
        config: of a trial with the largest rank there will be; its model, data and engine sections count.
        say: takes lines for the terminal: how far the building of a built-in model and the tokenizing are,
            and what of the model gets no adapter.
        max_cores: cores that a CPU engine may use; `None`: all that the process may.

    Returns:
        The engine, and how many trials should share it: as configured, or as many as fit.

    Raises:
        UserError: the data or the model cannot be used.
    """
    check_files(config.data)
    device = pick_device(config.engine.device)
    try:
        base = load_base(config.model, device, say)
    except torch.OutOfMemoryError as error:
        gib = torch.cuda.get_device_properties(device).total_memory / 2**30 if device.type == "cuda" else 0
        raise ModelError(
            f"base model '{config.model.name}' does not fit one GPU ({gib:.0f} GiB), and a model is not "
            "spread over several. Choose a smaller model, set model.load_in_4bit, or use larger GPUs."
        ) from error
    data = prepare(config.data, base.tokenizer, tokenizer_id=base.name_or_path, say=say)
    budget = config.engine.max_tokens_per_pass
    engine = Engine(
        base,
        data,
        max_tokens_per_pass=None if budget == "auto" else budget,
        max_cores=max_cores,
        gradient_checkpointing=config.engine.gradient_checkpointing,
    )
    engine.plan(config.lora)
    engine.check(config)
    for note in engine.describe(config.model.name).notes():
        say(note)
    found = memory.fit(engine, config)
    slots = config.engine.slots_per_device
    if slots == "auto":
        slots = memory.slots(engine, config, found)
    if found is not None and budget == "auto":
        engine.passes.limit(found.max_tokens(slots * memory.slot_bytes(engine, config)))
    return engine, slots
