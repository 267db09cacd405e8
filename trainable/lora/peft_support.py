"""Which layers PEFT loads an adapter for.

PEFT refuses some layers (the output projection of Mamba's mixer) and, on transformers 5, renames the tensors
of others (projections of models whose experts were separate layers in transformers 4), so that an adapter
loads without them. An adapter on such a layer would train well and be lost on loading, so it is left out.
PEFT itself is asked, on a copy of the model that has no weights.
"""

import copy
import functools
import json
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from transformers import PreTrainedModel

from trainable.lora.packed_linear import linear_shape

_LOST = "PEFT loads an adapter without it"


def refused_by_peft(model: PreTrainedModel, names: Iterable[str]) -> dict[str, str]:
    """Return the layers among `names` that PEFT does not load an adapter for, each with the reason."""
    # The configuration alone decides, so that engines over the same base ask once.
    kind: Any = type(model)
    return dict(_refused(kind, json.dumps(model.config.to_dict(), default=str), _Names(names, model)))


class _Names(tuple[str, ...]):
    """Layer names that carry the model they were taken from, without taking part in the cache's key."""

    config: Any

    def __new__(cls, names: Iterable[str], model: PreTrainedModel) -> "_Names":
        made = super().__new__(cls, names)
        made.config = model.config
        return made


@functools.lru_cache(maxsize=8)
def _refused(kind: type[PreTrainedModel], key: str, names: _Names) -> tuple[tuple[str, str], ...]:
    del key
    reasons: dict[str, str] = {}
    # Refusals and renamings go by a layer's last name. Refusing one may change what happens to the others.
    while left := [name for name in names if name not in reasons]:
        lost = _lost(kind, names.config, left)
        if lost == {}:
            break
        if lost is None:
            kinds = dict.fromkeys(name.rpartition(".")[2] for name in left)
            lost = {}
            for last in kinds:
                same = [name for name in left if name.rpartition(".")[2] == last]
                found = _lost(kind, names.config, same)
                lost |= dict.fromkeys(same, "PEFT refuses it") if found is None else found
            if not lost:
                lost = dict.fromkeys(left, "PEFT refuses this combination of layers")
        reasons |= lost
    return tuple(reasons.items())


def _lost(kind: type[PreTrainedModel], config: Any, names: list[str]) -> dict[str, str] | None:
    """Return what PEFT loses of an adapter on `names`; `None` if it refuses the adapter."""
    with torch.device("meta"):
        model = kind(copy.deepcopy(config))
        tensors = {}
        for name in names:
            d_in, d_out = linear_shape(model.get_submodule(name))
            tensors[f"base_model.model.{name}.lora_A.weight"] = torch.empty(1, d_in)
            tensors[f"base_model.model.{name}.lora_B.weight"] = torch.empty(d_out, 1)
    lora = LoraConfig(r=1, target_modules=names, task_type="CAUSAL_LM")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peft = get_peft_model(model, lora, low_cpu_mem_usage=True)
            loaded = set_peft_model_state_dict(peft, tensors, low_cpu_mem_usage=True)
    except (ValueError, RuntimeError):
        return None
    # A tensor that is renamed on loading is unexpected, or its layer is left without one, or both.
    keys = (*loaded.unexpected_keys, *loaded.missing_keys)
    unused = {key.rpartition(".lora_")[0].removeprefix("base_model.model.") for key in keys}
    return {name: _LOST for name in names if name in unused}
