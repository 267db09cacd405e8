"""What a process is busy with is what it did between two readings."""

import time

import torch

from trainable import records
from trainable.engine.device_use import DeviceUse


def busy(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_work_and_waiting_are_told_apart() -> None:
    use = DeviceUse(torch.device("cpu"))
    before = use.read()
    time.sleep(0.2)
    waited = use.since(before)
    before = use.read()
    busy(0.2)
    worked = use.since(before)
    assert waited[records.DEVICE_CPU] < worked[records.DEVICE_CPU]


def test_the_memory_is_this_processs() -> None:
    use = DeviceUse(torch.device("cpu"))
    before = use.since(use.read())[records.DEVICE_MEMORY]
    held = torch.ones(50_000_000)
    after = use.since(use.read())[records.DEVICE_MEMORY]
    assert 0.15 < after - before < 0.4
    assert held[-1] == 1


def test_a_cpu_has_no_gpu() -> None:
    use = DeviceUse(torch.device("cpu"))
    assert set(use.since(use.read())) <= {records.DEVICE_CPU, records.DEVICE_MEMORY}
