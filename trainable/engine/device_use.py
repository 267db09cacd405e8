"""What an engine's process and its device are busy with between two records of a trial.

Measured where the trial trains: W&B's own system metrics are of the machine that drives the search.
"""

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from trainable import records

_SAMPLE_S = 1.0
"""How often a GPU is asked; its own counters cover about as long."""
_GB = 1e9


@dataclass(frozen=True)
class Reading:
    """Counters at one moment.

    Attributes:
        at: seconds, monotonic.
        cpu_s: of all threads of the process.
        samples: of the GPU so far.
        busy, watts: sums over the samples: percent of the time, and power.
    """

    at: float
    cpu_s: float
    samples: int = 0
    busy: float = 0.0
    watts: float = 0.0


class DeviceUse:
    """Watches this process and one device."""

    def __init__(self, device: torch.device) -> None:
        """Begin to watch; a GPU is asked from a thread of its own."""
        self._device = device
        self._lock = threading.Lock()
        self._samples, self._busy, self._watts = 0, 0.0, 0.0
        if device.type == "cuda":
            threading.Thread(target=self._watch, name="device-use", daemon=True).start()

    def read(self) -> Reading:
        """Return the counters of now."""
        with self._lock:
            counted = self._samples, self._busy, self._watts
        return Reading(time.monotonic(), time.process_time(), *counted)

    def since(self, before: Reading) -> dict[str, float]:
        """Return the metrics of the time from `before` to now.

        CPU percent counts each core as 100. Memory is what the process holds: reserved by torch
        on a GPU, resident on a CPU. Without NVML (the package nvidia-ml-py) a GPU has memory only.
        """
        now = self.read()
        found: dict[str, float] = {}
        if now.at > before.at:
            found[records.DEVICE_CPU] = 100 * (now.cpu_s - before.cpu_s) / (now.at - before.at)
        if self._device.type == "cuda":
            found[records.DEVICE_MEMORY] = torch.cuda.memory_reserved(self._device) / _GB
            if samples := now.samples - before.samples:
                found[records.DEVICE_BUSY] = (now.busy - before.busy) / samples
                found[records.DEVICE_POWER] = (now.watts - before.watts) / samples
        elif (resident := _resident_bytes()) is not None:
            found[records.DEVICE_MEMORY] = resident / _GB
        return found

    def _watch(self) -> None:
        while True:
            try:
                busy = float(torch.cuda.utilization(self._device))
                watts = torch.cuda.power_draw(self._device) / 1000
            except (ImportError, RuntimeError, OSError):
                # No NVML here, or not for this device.
                return
            with self._lock:
                self._samples += 1
                self._busy += busy
                self._watts += watts
            time.sleep(_SAMPLE_S)


def _resident_bytes() -> int | None:
    """Return the memory of this process; `None` where the system has no /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
