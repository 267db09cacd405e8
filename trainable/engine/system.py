"""What training uses of its device and process, read once an evaluation; reading it waits for no kernel."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

_SHORTEST_S = 0.5
"""A share of the CPU over less time than this says nothing, so the last one is given again."""
_GIB = 1 << 30


class SystemMeter:
    """Reads the device that an engine is on, and the engine's own process."""

    def __init__(
        self,
        device: torch.device,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        """Begin to count.

        Args:
            device: the engine's.
            clock: seconds.
            cpu_clock: seconds that all threads of the process have computed.
        """
        self._device = device
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._since = clock(), cpu_clock()
        self._cpu_cores: float | None = None

    def read(self) -> dict[str, float]:
        """Return what can be read here.

        `cpu_cores` is how many cores the process kept busy since the last time, `memory_gib` the main memory
        it has. On a GPU with NVML also `gpu_utilization` (percent of the last second), `gpu_power_w`, and
        without NVML too `gpu_memory_gib`, what tensors occupy.
        """
        found: dict[str, float] = {}
        now, cpu = self._clock(), self._cpu_clock()
        if now - self._since[0] >= _SHORTEST_S:
            self._cpu_cores = (cpu - self._since[1]) / (now - self._since[0])
            self._since = now, cpu
        if self._cpu_cores is not None:
            found["cpu_cores"] = self._cpu_cores
        with contextlib.suppress(OSError):
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            found["memory_gib"] = pages * os.sysconf("SC_PAGE_SIZE") / _GIB
        if self._device.type == "cuda":
            found["gpu_memory_gib"] = torch.cuda.memory_allocated(self._device) / _GIB
            # Without NVML's package, and in many containers and MIG slices, NVML does not answer.
            with contextlib.suppress(Exception):
                found["gpu_utilization"] = float(torch.cuda.utilization(self._device))
            with contextlib.suppress(Exception):
                found["gpu_power_w"] = torch.cuda.power_draw(self._device) / 1000
        return found
