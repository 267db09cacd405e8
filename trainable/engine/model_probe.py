"""What a base model does with the rows of a pass, measured on the model itself before it is wrapped.

Packing rests on four properties that no configuration states reliably: a token sees no later token, rows do
not see each other, padding on the right changes nothing, and a layer's input holds the pass's rows one after
the other. A few forward passes over three short rows of random tokens establish them. A base model without
the first three is refused. A layer without the last, such as an expert that is handed a selection of tokens,
is left out with its reason.

The method: in a second pass one row is changed from one token on. What changes in a layer's input shows where
that row's tokens lie in it; what changes in the logits shows who sees whom.

Shapes: R rows of a pass, T padded tokens, D features, V vocabulary.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from trainable.errors import ModelError
from trainable.lora.packed_linear import linear_shape, places_per_token
from trainable.model import BaseModel

_ROWS, _TOKENS, _PADDING = 3, 7, 4
_CHANGED_ROW, _CHANGED_FROM = 1, 3


@dataclass(frozen=True)
class ModelProbe:
    """What was found.

    Attributes:
        per_token: the layers whose input holds row after row, with the places of a token in it.
        left_out: the other candidates, each with the reason.
        table_limit: the longest row that the model's tables of positions allow; `None` for no such limit.
        batch_limit: the longest row before what a row computes begins to depend on the rest of its batch
            (dynamic and longrope positions, attention to selected tokens); `None` if it never does.
        selects: whether logits can be computed for selected tokens alone, by handing the head only those.
        head_is_last: whether the logits are what the head returns, without a cap or a factor after it.
    """

    per_token: Mapping[str, float]
    left_out: Mapping[str, str]
    table_limit: int | None
    batch_limit: int | None
    selects: bool
    head_is_last: bool


def probe_model(base: BaseModel, layers: Mapping[str, nn.Module]) -> ModelProbe:
    """Find out how `base` treats rows.

    Args:
        base: not wrapped yet; it is left as it is.
        layers: candidates for adapters, by name.

    Raises:
        ModelError: the model is not causal, mixes rows, or sees padding on the right.
    """
    module = base.module
    vocabulary = module.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (_ROWS, _TOKENS), generator=generator)
    changed = ids.clone()
    shift = torch.randint(1, vocabulary, (_TOKENS - _CHANGED_FROM,), generator=generator)
    changed[_CHANGED_ROW, _CHANGED_FROM:] = (changed[_CHANGED_ROW, _CHANGED_FROM:] + shift) % vocabulary
    padded = nn.functional.pad(ids, (0, _PADDING), value=base.tokenizer.pad_token_id)
    tolerance = 1e-5 if module.dtype == torch.float32 else 2e-2

    def forward(tokens: Tensor) -> Tensor:
        return module(input_ids=tokens.to(module.device), use_cache=False).logits

    with torch.no_grad():
        lookups = _TableLookups(_TOKENS)
        with _recorded(layers) as first, lookups:
            logits = forward(ids)
        with _recorded(layers) as second:
            logits_changed = forward(changed)
        _check_independence(module, _differs(logits, logits_changed, tolerance))
        beyond = forward(padded)[:, :_TOKENS]
        if _differs(logits, beyond, 20 * tolerance).any():
            raise ModelError(
                f"{type(module).__name__}: padding a row on the right changes the logits of its tokens, so "
                "rows of different lengths cannot be trained together. Give another base model."
            )
        selects = _head_takes_a_selection(module, logits, lambda: forward(ids), 20 * tolerance)
        head_is_last = selects and _head_is_last(module, lambda: forward(ids))
    per_token: dict[str, float] = {}
    left_out: dict[str, str] = {}
    for name, layer in layers.items():
        found = _places(first[name], second[name], linear_shape(layer)[1], tolerance)
        if isinstance(found, str):
            left_out[name] = found
        else:
            per_token[name] = found
    return ModelProbe(per_token, left_out, lookups.limit(), _batch_limit(module), selects, head_is_last)


@dataclass(frozen=True)
class _Call:
    """One call of a layer: its input, and the shape of its output, if both are single tensors."""

    x: Tensor | None
    output: tuple[int, ...] | None


@contextmanager
def _recorded(layers: Mapping[str, nn.Module]) -> Any:
    """Yield a dictionary that collects every call of the layers, by name."""
    calls: dict[str, list[_Call]] = defaultdict(list)

    def recorder(name: str) -> Callable[..., None]:
        def record(_layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            x = args[0].clone() if len(args) == 1 and isinstance(args[0], Tensor) else None
            calls[name].append(_Call(x, tuple(output.shape) if isinstance(output, Tensor) else None))

        return record

    handles = [layer.register_forward_hook(recorder(name)) for name, layer in layers.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _differs(before: Tensor, after: Tensor, tolerance: float) -> Tensor:
    """Return, for all axes but the last, whether any feature differs by more than rounding."""
    scale = before.abs().amax().clamp_min(torch.finfo(before.dtype).tiny)
    return ((before - after).abs() > tolerance * scale).any(dim=-1)


def _check_independence(module: nn.Module, differs_RT: Tensor) -> None:
    """Refuse a model in which something changed that neither is nor follows the tokens that were changed."""
    name = type(module).__name__
    if differs_RT[_CHANGED_ROW, :_CHANGED_FROM].any():
        raise ModelError(
            f"{name}: its tokens see the tokens that follow them, so it would be trained on the answers. It "
            "was loaded as an encoder; give a decoder (one that was trained as such has `is_decoder: true` "
            "in config.json)."
        )
    if differs_RT[[row for row in range(_ROWS) if row != _CHANGED_ROW]].any():
        raise ModelError(
            f"{name}: the rows of a batch change each other's logits, so trials cannot share a pass. "
            "Give another base model."
        )
    if not differs_RT[_CHANGED_ROW].any():
        raise ModelError(f"{name}: its logits do not depend on its input. Are its weights all zero?")


def _places(first: list[_Call], second: list[_Call], d_out: int, tolerance: float) -> float | str:
    """Return the places of a token in a layer's input, or why its rows cannot be separated."""
    if not first:
        return "a pass over text does not call it"
    found: set[float] = set()
    for before, after in zip(first, second, strict=False):
        if before.x is None or before.output is None or before.output != (*before.x.shape[:-1], d_out):
            return "it does not map one tensor to one product, as a plain linear layer does"
        per_token = places_per_token(tuple(before.x.shape), _ROWS, _TOKENS)
        if per_token is None or after.x is None or after.x.shape != before.x.shape:
            return "its input is a selection of tokens, not row after row"
        differs_RK = _differs(before.x, after.x, tolerance).reshape(_ROWS, -1)
        expected_RK = torch.zeros_like(differs_RK)
        start = int(_CHANGED_FROM * per_token)
        expected_RK[_CHANGED_ROW, start:] = True
        # An input that does not depend on the tokens (a gate that starts at zero) is placed by its shape,
        # which says enough unless rows and tokens share an axis.
        hidden = not differs_RK.any() and before.x.dim() == 2
        if (differs_RK & ~expected_RK).any() or hidden:
            return "its input does not hold the tokens of one row after those of another"
        found.add(per_token)
    if len(first) != len(second) or len(found) != 1:
        return "it is called in another way for other tokens"
    return found.pop()


def _head_takes_a_selection(
    module: Any, logits: Tensor, forward: Callable[[], Tensor], tolerance: float
) -> bool:
    """Whether handing the head two tokens `[1, 2, D]` gives the logits `[1, 2, V]` of those two."""
    head = module.get_output_embeddings()
    if head is None:
        return False
    chosen = torch.tensor([_TOKENS + 2, 1], device=module.device)

    def choose(_head: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor, ...]:
        return (args[0].reshape(-1, args[0].shape[-1])[chosen][None],)

    handle = head.register_forward_pre_hook(choose)
    try:
        selected = forward()
    except (RuntimeError, IndexError, ValueError):
        return False
    finally:
        handle.remove()
    expected = logits.reshape(-1, logits.shape[-1])[chosen][None]
    return selected.shape == expected.shape and not _differs(expected, selected, tolerance).any()


def _head_is_last(module: Any, forward: Callable[[], Tensor]) -> bool:
    """Whether the logits are what the head returns, without a cap or a factor after it."""
    with _recorded_output(module.get_output_embeddings()) as outputs:
        logits = forward()
    return len(outputs) == 1 and torch.equal(outputs[0], logits)


@contextmanager
def _recorded_output(layer: nn.Module) -> Any:
    """Yield a list that collects what the layer returns."""
    outputs: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _layer, _args, output: outputs.append(output.clone()))
    try:
        yield outputs
    finally:
        handle.remove()


def _batch_limit(module: nn.Module) -> int | None:
    config = module.config.get_text_config()
    # Sparse attention picks this many tokens; ties among them are broken by the padded length of the batch.
    limits = [config.index_topk] if getattr(config, "index_topk", None) else []
    for part in module.modules():
        kinds = getattr(part, "rope_type", None)
        if kinds is None:
            continue
        parameters = part.config.rope_parameters
        if isinstance(kinds, str):
            kinds, parameters = {"": kinds}, {"": parameters}
        for layer_type, kind in kinds.items():
            if "dynamic" in kind:
                limits.append(part.original_max_seq_len)
            elif kind == "longrope":
                limits.append(parameters[layer_type]["original_max_position_embeddings"])
    return min(limits, default=None)


class _TableLookups(TorchDispatchMode):
    """Watches a pass for tables that are read at 0, 1, 2, ... along the tokens: tables of positions."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self._tokens = tokens
        self._limits: list[int] = []

    def limit(self) -> int | None:
        """Return the longest row that all the tables allow."""
        return min(self._limits, default=None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        match func._overloadpacket:
            case torch.ops.aten.embedding:
                self._look(args[0].shape[0], args[1])
            case torch.ops.aten.gather:
                self._look(args[0].shape[args[1]], args[2].movedim(args[1], -1))
            case torch.ops.aten.index_select:
                self._look(args[0].shape[args[1]], args[2])
            case torch.ops.aten.index if args[1] and args[1][0] is not None:
                self._look(args[0].shape[0], args[1][0])
        return result

    def _look(self, size: int, index: Tensor) -> None:
        """Note the limit of a table with `size` entries, if `index` steps through it by the token."""
        if size <= self._tokens or index.dtype not in (torch.int32, torch.int64) or not index.dim():
            return
        rows = index.reshape(-1, index.shape[-1])
        if rows.shape[-1] != self._tokens or rows.numel() == 0:
            return
        first = rows[:, :1]
        steps = torch.arange(self._tokens, device=index.device)
        if bool((rows - first == steps).all()):
            self._limits.append(size - int(first.max()))
