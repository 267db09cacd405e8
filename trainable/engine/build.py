"""An engine from a configuration: the base model on its device, the tokens, and the budget of a pass."""

from collections.abc import Callable

from trainable.config import TrialConfig
from trainable.data import check_files, prepare
from trainable.engine import Engine
from trainable.engine import memory_fit as memory
from trainable.model import load_base, pick_device


def build_engine(config: TrialConfig, say: Callable[[str], None]) -> tuple[Engine, int]:
    """Load what `config` names.

    Args:
        config: of a trial with the largest rank there will be; its model, data and engine sections count.
        say: is told how far the building of a built-in model is.

    Returns:
        The engine, and how many trials should share it: as configured, or as many as were found to fit.

    Raises:
        UserError: the data or the model has to be mended first.
    """
    check_files(config.data, say)
    base = load_base(config.model, pick_device(config.engine.device), say)
    data = prepare(config.data, base.tokenizer, tokenizer_id=base.name_or_path)
    budget = config.engine.max_tokens_per_pass
    engine = Engine(base, data, max_tokens_per_pass=None if budget == "auto" else budget)
    engine.targets(config.lora.target_modules)
    found = memory.fit(engine, config)
    slots = config.engine.slots_per_device
    if slots == "auto":
        slots = memory.slots(engine, config, found)
    if found is not None and budget == "auto":
        engine.passes.limit(found.max_tokens(slots * memory.slot_bytes(engine, config)))
    return engine, slots
