"""Runs the rows of many trials through the device: pass by pass, within a budget of tokens.

A pass is one fused forward (and backward). A GPU runs one at a time. A CPU runs several at once, each in a
worker thread with its share of the cores: small products gain little from more cores, separate passes use all
of them. Running out of memory halves the budget and repeats only what failed, so that packing never fails a
trial; only a single row that does not fit alone ends its trial.
"""

import gc
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from trainable.engine.batching import Portion, plan_passes

ResultT = TypeVar("ResultT")

_GPU_TOKENS = 65536
"""Padded tokens that may be on a GPU at once, before anything is known of its memory."""
_WORKER_TOKENS = 1024
"""Padded tokens of one worker thread of a CPU: their activations stay in its cache, and few are padding."""
_PADDED = 1.1
"""What the shares of worker threads may hold together, as a multiple of the real tokens."""
_FEW = 1e9
"""A constant beside which the padding of a pass is nothing."""
_MIN_WORKER_TOKENS = 192
"""Below this, another worker thread costs more than it gains."""


class Passes:
    """Lays portions into passes and runs them.

    Attributes:
        max_tokens: padded tokens on the device at once; running out of memory lowers it.
        pass_tokens: padded tokens that take as long as a pass takes beside its tokens.
    """

    def __init__(
        self,
        device: torch.device,
        max_tokens: int | None = None,
        max_cores: int | None = None,
        pass_tokens: float = 0.0,
    ) -> None:
        """Start as many worker threads as the process may use cores.

        Args:
            device: what the passes run on.
            max_tokens: the budget; `None` for the device's default.
            max_cores: cores that were allotted to the process; `None`: all that it may use.
            pass_tokens: see above.
        """
        self.pass_tokens = pass_tokens
        self._device = device
        self._cores = min(usable_cores(), max_cores or sys.maxsize) if device.type == "cpu" else 1
        default = _WORKER_TOKENS * self._cores if device.type == "cpu" else _GPU_TOKENS
        self.max_tokens = max_tokens or default
        self._workers = self._cores
        self._threads = ThreadPoolExecutor(self._cores, thread_name_prefix="pass")

    def limit(self, max_tokens: int) -> None:
        """Lower the budget to `max_tokens`, if it is higher."""
        self.max_tokens = min(self.max_tokens, max(1, max_tokens))

    def run(
        self,
        portions: Sequence[Portion],
        lengths: np.ndarray,
        work: Callable[[list[Portion]], ResultT],
        unfit: Callable[[str, int], None],
        *,
        few: bool = False,
    ) -> Iterator[tuple[list[Portion], ResultT]]:
        """Do `work` on all portions and yield each pass with its result.

        `work` runs in any thread and must change nothing that passes share: what it returns is for the caller
        to take in, one pass after the other.

        Args:
            portions: one of each trial, sorted so that trials whose adapters are alike stand together.
            lengths: `[rows of the table]` tokens of each row.
            work: computes one pass.
            unfit: called with the trial, and the tokens, of a row that does not fit alone; the rest of that
                trial's rows are left out.
            few: whether as few passes as possible are wanted, because each takes long whatever its tokens.
        """
        left = list(portions)
        while left:
            workers, limit = self._shares(left, lengths)
            planned = plan_passes(left, lengths, limit, _FEW if few else self.pass_tokens)
            failed: list[list[Portion]] = []
            for part, result in zip(planned, self._at_once(planned, workers, work), strict=True):
                if result is None:
                    failed.append(part)
                else:
                    yield part, result[0]
            left = _joined(portions, failed)
            if left and not self._make_room(left, lengths):
                # The budget is down to the longest row, which therefore failed alone.
                alone = next(part[0] for part in failed if sum(len(portion.rows) for portion in part) == 1)
                unfit(alone.owner, int(lengths[alone.rows[0]]))
                left = [portion for portion in left if portion.owner != alone.owner]

    def _shares(self, portions: Sequence[Portion], lengths: np.ndarray) -> tuple[int, int]:
        """Return how many worker threads the portions fill, and the padded tokens that each may take."""
        total = int(sum(lengths[row] for portion in portions for row in portion.rows))
        workers = max(1, min(self._workers, total // _MIN_WORKER_TOKENS))
        if workers == 1:
            return 1, self.max_tokens
        return workers, min(self.max_tokens // workers, math.ceil(_PADDED * total / workers))

    def _at_once(
        self, parts: Sequence[list[Portion]], workers: int, work: Callable[[list[Portion]], ResultT]
    ) -> Iterator[tuple[ResultT] | None]:
        """Yield the result of each part in their order, or `None` where memory ran out."""
        free = threading.Semaphore(workers)

        def in_worker(part: list[Portion]) -> tuple[ResultT] | None:
            with free:
                if self._device.type == "cpu":
                    torch.set_num_threads(max(1, self._cores // workers))
                try:
                    return (work(part),)
                except torch.OutOfMemoryError:
                    return None
                except RuntimeError as error:
                    if "can't allocate memory" in str(error) or "not enough memory" in str(error):
                        return None
                    raise

        return map(in_worker, parts) if self._device.type == "cuda" else self._threads.map(in_worker, parts)

    def _make_room(self, failed: Sequence[Portion], lengths: np.ndarray) -> bool:
        """Ask for less at a second try; returns whether there is less to ask for."""
        # The failed pass's graph died with its exception; collect what a cycle may still hold.
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        rows = [int(lengths[row]) for portion in failed for row in portion.rows]
        fewer = max(max(rows), min(self.max_tokens, max(rows) * len(rows)) // 2)
        if fewer < self.max_tokens:
            self.max_tokens = fewer
            return True
        alone, self._workers = self._workers == 1, 1
        return not alone


def _joined(portions: Sequence[Portion], parts: Sequence[Sequence[Portion]]) -> list[Portion]:
    """Join what parts of passes hold of each trial's portion, in the order of `portions`."""
    left: dict[str, Portion] = {}
    for portion in (portion for part in parts for portion in part):
        before = left.get(portion.owner, Portion(portion.owner, ()))
        left[portion.owner] = Portion(
            portion.owner, before.rows + portion.rows, before.places + portion.places
        )
    return [left[portion.owner] for portion in portions if portion.owner in left]


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return the cores that this process may use: those it is bound to, within its control group's quota.

    Args:
        quota: the control group's file, `MAX PERIOD` in microseconds; `max` is no limit.
    """
    cores = len(os.sched_getaffinity(0))
    try:
        most, period = quota.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if most == "max" else max(1, min(cores, int(most) // int(period)))
