"""The curve through measured passes, what fits by it, and that measuring leaves no trace."""

import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.engines import trial_config
from trainable.engine import Engine
from trainable.engine import memory_fit as memory
from trainable.engine.memory_fit import MemoryFit, through

tokens = [256, 512, 1024]


@given(
    constant=st.floats(0, 1e8),
    linear=st.floats(1e3, 1e6),
    quadratic=st.floats(0, 10),
    free=st.floats(1e9, 1e11),
    taken=st.floats(0, 5e8),
)
def test_the_largest_pass_just_fits(
    constant: float, linear: float, quadratic: float, free: float, taken: float
) -> None:
    found = MemoryFit(constant, linear, quadratic, free)
    most = found.max_tokens(taken)
    assert found.pass_bytes(most) + taken <= free * (1 + 1e-6)
    assert found.pass_bytes(most + 2) + taken > free * (1 - 1e-6)


def test_nothing_fits_where_all_is_taken() -> None:
    assert MemoryFit(0, 10, 0, 100).max_tokens(100) == 0


def test_the_curve_goes_through_what_was_measured() -> None:
    found = through(tokens, [1e6 + 2e3 * t + 3 * t * t for t in tokens], free=1e9)
    assert found is not None
    assert found.pass_bytes(4096) == pytest.approx(1e6 + 2e3 * 4096 + 3 * 4096**2, rel=1e-6)


def test_a_curve_that_bends_down_becomes_a_line() -> None:
    found = through(tokens, [5e6, 8e6, 11e6], free=1e9)
    assert found is not None
    assert found.quadratic == 0
    assert found.linear > 0


@pytest.mark.parametrize("needed", [[5.0, 5.0, 5.0], [9.0, 5.0, 1.0]])
def test_memory_that_does_not_rise_says_nothing(needed: list[float]) -> None:
    assert through(tokens, needed, free=1e9) is None


@pytest.mark.skipif(sys.platform != "linux", reason="a CPU's memory is measured under Linux only")
def test_measuring_leaves_an_engine_as_it_was(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    config = trial_config()
    monkeypatch.setattr(memory, "PROBE_TOKENS", (40, 400, 4000))
    memory.fit(engine, config)
    measured, fresh = engine, make_engine()
    for made in (measured, fresh):
        made.join("t", config)
        made.step(["t"])
        made.step(["t"])
    assert measured.tenant("t").window.losses == fresh.tenant("t").window.losses


def test_slots_fill_a_step_but_no_more_than_memory_holds(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, config = make_engine(), trial_config(training={"batch_size": 8})
    each = 8 * float(engine.data.train.lengths.mean())
    monkeypatch.setattr(memory, "_FULL_STEP_TOKENS", {"cpu": 5.5 * each})
    assert memory.slots(engine, config, None) == 6
    adapter = memory.slot_bytes(engine, config)
    longest = int(engine.data.train.lengths.max())
    room = MemoryFit(0, 1, 0, free=longest + 3.5 * adapter)
    assert memory.slots(engine, config, room) == 3
    assert memory.slots(engine, config, MemoryFit(0, 1, 0, free=1)) == 1


def test_a_larger_rank_takes_a_larger_slot(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    small = memory.slot_bytes(engine, trial_config(lora={"r": 8}))
    assert memory.slot_bytes(engine, trial_config(lora={"r": 16})) == 2 * small
    parameters = 8 * sum(sum(shape) for shape in engine.shapes.values())
    # Parameters, gradient, two moments and a scaled copy; in the pass, weights and gradients twice.
    assert small == parameters * (5 * 4 + 3 * 4)
