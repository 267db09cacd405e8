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
_MIN_WORKER_TOKENS = 192
"""Below this, another worker thread costs more than it gains."""


class Passes:
    """Lays portions into passes and runs them.

    Attributes:
        max_tokens: padded tokens on the device at once; running out of memory lowers it.
    """

    def __init__(
        self, device: torch.device, max_tokens: int | None = None, max_cores: int | None = None
    ) -> None:
        """Start as many worker threads as the process may use cores.

        Args:
            device: what the passes run on.
            max_tokens: the budget; `None` for the device's default.
            max_cores: cores that were allotted to the process; `None`: all that it may use.
        """
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
    ) -> Iterator[tuple[list[Portion], ResultT]]:
        """Do `work` on all portions and yield each pass with its result, in the portions' order.

        `work` runs in any thread and must change nothing that passes share: what it returns is for the caller
        to take in, one pass after the other.

        Args:
            portions: sorted so that trials of one group stand together.
            lengths: `[rows of the table]` tokens of each row.
            work: computes one pass.
            unfit: called with the trial, and the tokens, of a row that does not fit alone; the rest of that
                trial's rows are left out.
        """
        left = list(portions)
        while left:
            workers, limit = self._shares(left, lengths)
            planned = plan_passes(left, lengths, limit)
            now, later = planned[:workers], planned[workers:]
            failed: list[Portion] = []
            for part, result in zip(now, self._at_once(now, work), strict=True):
                if result is None:
                    failed += part
                else:
                    yield part, result[0]
            left = [*failed, *(portion for part in later for portion in part)]
            if failed and not self._make_room(failed, lengths):
                owner = failed[0].owner
                unfit(owner, int(lengths[failed[0].rows[0]]))
                left = [portion for portion in left if portion.owner != owner]

    def _shares(self, portions: Sequence[Portion], lengths: np.ndarray) -> tuple[int, int]:
        """Return how many worker threads the portions fill, and the padded tokens that each may take."""
        rows = [int(lengths[row]) for portion in portions for row in portion.rows]
        total = max(rows) * len(rows)
        workers = max(1, min(self._workers, total // _MIN_WORKER_TOKENS))
        return workers, min(self.max_tokens // workers, math.ceil(total / workers))

    def _at_once(
        self, parts: Sequence[list[Portion]], work: Callable[[list[Portion]], ResultT]
    ) -> list[tuple[ResultT] | None]:
        """Return the result of each part, or `None` where memory ran out."""

        def in_worker(part: list[Portion]) -> tuple[ResultT] | None:
            if self._device.type == "cpu":
                torch.set_num_threads(max(1, self._cores // len(parts)))
            try:
                return (work(part),)
            except torch.OutOfMemoryError:
                return None
            except RuntimeError as error:
                if "can't allocate memory" in str(error) or "not enough memory" in str(error):
                    return None
                raise

        if self._device.type == "cuda":
            return [in_worker(part) for part in parts]
        return list(self._threads.map(in_worker, parts))

    def _make_room(self, failed: Sequence[Portion], lengths: np.ndarray) -> bool:
        """Ask for less at a second try; returns whether there is less to ask for."""
        # The failed pass's graph died with its exception; collect what a cycle may still hold.
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        rows = [int(lengths[row]) for portion in failed for row in portion.rows]
        if len(rows) > 1:
            self.max_tokens = max(max(rows), min(self.max_tokens, max(rows) * len(rows)) // 2)
            return True
        alone, self._workers = self._workers == 1, 1
        return not alone


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
