"""What a base model is by its content, so that a checkpoint is never continued over another one.

A path or a hub name says little: a folder may hold other weights tomorrow, and the same weights may move.
The identity is a hash of the configuration's settings and, of each parameter, the name, the shape and a few
values spread over it. Values are taken in bfloat16, so that a model has one identity whether it is loaded in
float32 or in bfloat16.
"""

import hashlib
import json
from typing import Any

import torch
from torch import nn

_SAMPLES = 32
"""Values of each parameter that are looked at."""
_OF_THE_LOADING = frozenset(
    {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"}
)
"""Settings that say where a model is from and how it was loaded, not what it is."""


def fingerprint(module: nn.Module) -> str:
    """Return the identity of a model, before anything of it is wrapped or trained."""
    described = [(name, list(p.shape)) for name, p in sorted(module.named_parameters())]
    settings = _settings(module.config.to_diff_dict())
    digest = hashlib.sha256(json.dumps([settings, described], sort_keys=True, default=str).encode())
    samples: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    for _, parameter in sorted(module.named_parameters()):
        flat = parameter.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // _SAMPLES)][:_SAMPLES]
        # Quantized weights are packed into integers.
        floating = some.is_floating_point()
        samples[floating].append(
            some.to(torch.bfloat16).view(torch.int16) if floating else some.view(torch.uint8)
        )
    for floating in (True, False):
        if samples[floating]:
            digest.update(torch.cat(samples[floating]).cpu().numpy().tobytes())
    return digest.hexdigest()[:32]


def _settings(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _settings(value) for key, value in config.items() if key not in _OF_THE_LOADING}
    return config
