"""How much fits a device: a few training passes are measured, and a curve is fitted through them.

The memory of a pass is taken for b0 + b1 * tokens + b2 * tokens^2, in bytes. On a GPU the allocator's peak is
measured, on a CPU under Linux the process's; elsewhere nothing is measured and running out of memory alone
sets the limit.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from trainable.config import TrialConfig
from trainable.engine import Engine
from trainable.lora.stack import padded_rank

PROBE_TOKENS = (256, 512, 1024)
"""Padded tokens of the passes that are measured; each is rounded up to whole rows."""

_SHARE_USED = 0.8
"""Of the free memory: the rest is for what the curve does not know, such as fragmentation."""
_FULL_STEP_TOKENS = {"cpu": 3072, "cuda": 16384}
"""Tokens of a fused step beyond which more trials at once bring next to nothing."""
_MAX_SLOTS = 64


@dataclass(frozen=True)
class MemoryFit:
    """What passes need, and what there is.

    Attributes:
        constant, linear, quadratic: bytes, bytes a token, bytes a token squared.
        free: bytes that adapters and passes may take together.
    """

    constant: float
    linear: float
    quadratic: float
    free: float

    def pass_bytes(self, tokens: int) -> float:
        """Return the bytes that a training pass of `tokens` padded tokens needs."""
        return self.constant + self.linear * tokens + self.quadratic * tokens**2

    def max_tokens(self, taken: float) -> int:
        """Return the padded tokens of the largest pass that fits beside `taken` bytes; 0 if none does."""
        left = self.free - taken - self.constant
        if left <= 0:
            return 0
        if self.quadratic * left < 1e-9 * self.linear**2:
            return int(left / self.linear)
        root = math.sqrt(self.linear**2 + 4 * self.quadratic * left)
        return int((root - self.linear) / (2 * self.quadratic))


def fit(engine: Engine, config: TrialConfig) -> MemoryFit | None:
    """Measure a few passes of an engine without tenants; `None` where memory cannot be measured.

    Args:
        engine: nothing of it is changed.
        config: of a trial with the largest rank there will be.
    """
    meter = _meter(engine.device)
    if meter is None:
        return None
    longest = int(engine.data.train.lengths.max())
    counts = sorted({math.ceil(tokens / longest) for tokens in PROBE_TOKENS})
    # The first pass also allocates what lasts: workspaces, and the arenas of the threads.
    engine.probe(config, counts[0])
    free, peak = meter
    base = free()
    needed = [peak(functools.partial(engine.probe, config, count)) for count in counts]
    return through([count * longest for count in counts], needed, _SHARE_USED * base)


def through(tokens: list[int], needed: list[float], free: float) -> MemoryFit | None:
    """Lay the curve through measured passes; no coefficient is negative.

    Args:
        tokens: padded tokens of each pass, rising.
        needed: bytes that each took.
        free: see `MemoryFit`.

    Returns:
        `None` if memory did not rise with the tokens, so that nothing can be said.
    """
    for degree in range(min(2, len(tokens) - 1), 0, -1):
        quadratic, linear, constant = [0.0, *np.polyfit(tokens, needed, degree)][-3:]
        if quadratic >= 0 and linear > 0:
            return MemoryFit(max(0.0, float(constant)), float(linear), float(quadratic), free)
    return None


def slot_bytes(engine: Engine, config: TrialConfig) -> int:
    """Return what one more trial's adapter takes.

    Those are parameters, gradient, two moments and the copy scaled for a pass, in fp32; and what a pass lays
    out in the dtype of its products, padded to the largest rank: weights, and gradients twice.
    """
    plan = engine.plan(config.lora)
    columns = sum(sum(engine.shapes[name]) for name in plan.targets)
    held, laid_out = plan.rank * columns, padded_rank(plan.rank) * columns
    return 5 * 4 * held + 3 * engine.base.module.dtype.itemsize * laid_out


def slots(engine: Engine, config: TrialConfig, found: MemoryFit | None) -> int:
    """Return how many trials like `config` should share the device.

    As many as fill a fused step, if memory holds their adapters and a pass of one trial's longest row.
    """
    lengths = engine.data.train.lengths
    wanted = math.ceil(_FULL_STEP_TOKENS[engine.device.type] / (config.training.batch_size * lengths.mean()))
    wanted = min(wanted, _MAX_SLOTS)
    if found is not None:
        left = found.free - found.pass_bytes(int(lengths.max()))
        wanted = min(wanted, int(left / slot_bytes(engine, config)))
    return max(1, wanted)


_Meter = tuple[Callable[[], float], Callable[[Callable[[], None]], float]]
"""Returns the bytes that are free; runs some work and returns the bytes it took at its peak."""


def _meter(device: torch.device) -> _Meter | None:
    if device.type == "cuda":
        return lambda: _free_on_gpu(device), lambda work: _peak_on_gpu(device, work)
    if Path("/proc/self/clear_refs").exists():
        start = _process_bytes("VmRSS")
        return _free_on_cpu, lambda work: _peak_on_cpu(start, work)
    return None


def _free_on_gpu(device: torch.device) -> float:
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _peak_on_gpu(device: torch.device, work: Callable[[], None]) -> float:
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def _free_on_cpu() -> float:
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except OSError:
        return free
    return free if limit == "max" else min(free, float(int(limit) - used))


def _peak_on_cpu(start: float, work: Callable[[], None]) -> float:
    """Compare with the size before the first pass: what a pass frees, the process keeps for the next."""
    Path("/proc/self/clear_refs").write_text("5")
    work()
    return _process_bytes("VmHWM") - start


def _process_bytes(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(key))
