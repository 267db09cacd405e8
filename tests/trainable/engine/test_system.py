"""What training uses of its device is read as it is."""

import pytest
import torch

from trainable.engine.system import SystemMeter


def test_busy_cores_are_of_the_time_since_the_last_reading() -> None:
    now, cpu = [100.0], [7.0]
    meter = SystemMeter(torch.device("cpu"), lambda: now[0], lambda: cpu[0])
    assert "cpu_cores" not in meter.read()
    now[0], cpu[0] = 110.0, 22.0
    assert meter.read()["cpu_cores"] == pytest.approx(1.5)
    # Trials of one engine report in the same moment.
    now[0], cpu[0] = 110.1, 22.1
    assert meter.read()["cpu_cores"] == pytest.approx(1.5)
    now[0], cpu[0] = 120.0, 22.2
    assert meter.read()["cpu_cores"] == pytest.approx(0.02)


def test_memory_of_the_process_grows_with_what_it_holds() -> None:
    meter = SystemMeter(torch.device("cpu"))
    before = meter.read()["memory_gib"]
    held = torch.ones(64 << 18)  # 64 MiB.
    assert meter.read()["memory_gib"] - before == pytest.approx(held.nbytes / (1 << 30), rel=0.2)


def test_a_cpu_engine_has_no_figures_of_a_gpu() -> None:
    assert not [name for name in SystemMeter(torch.device("cpu")).read() if name.startswith("gpu")]


@pytest.mark.gpu
def test_a_gpu_engine_has_the_memory_of_its_tensors() -> None:
    device = torch.device("cuda", 0)
    held = torch.ones(64 << 18, device=device)
    assert SystemMeter(device).read()["gpu_memory_gib"] >= held.nbytes / (1 << 30)
