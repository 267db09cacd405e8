"""The loop fuses whoever asks, answers each with its own record, and survives a failing engine."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.engines import trial_config
from trainable import records
from trainable.engine import Engine
from trainable.engine.loop import Advance, EngineLoop


@pytest.fixture
def engine(make_engine: Callable[..., Engine]) -> Engine:
    return make_engine()


@pytest.fixture
def loop(engine: Engine) -> Iterator[EngineLoop]:
    made = EngineLoop(engine)
    yield made
    made.close()


def advance_all(loop: EngineLoop, steps: dict[str, int]) -> dict[str, Advance]:
    with ThreadPoolExecutor(len(steps)) as pool:
        waiting = {name: pool.submit(loop.advance, name, count) for name, count in steps.items()}
        return {name: future.result(30) for name, future in waiting.items()}


def test_each_is_answered_at_its_own_step(loop: EngineLoop) -> None:
    for number, name in enumerate("abc"):
        loop.call(lambda e, name=name, n=number: e.join(name, trial_config(training={"seed": n})))
    answers = advance_all(loop, {"a": 2, "b": 3, "c": 99})
    assert {name: answer.record[records.STEP] for name, answer in answers.items()} == {"a": 2, "b": 3, "c": 6}
    assert answers["a"].record[records.STATE] == "running"
    assert answers["c"].record[records.STATE] == "completed"
    assert all(answer.record[records.EVAL_LOSS] > 0 for answer in answers.values())


def test_texts_come_when_the_configuration_wants_them(loop: EngineLoop) -> None:
    for when in ("never", "end", "always"):
        config = trial_config(evaluation={"text_metrics": when})
        loop.call(lambda e, when=when, config=config: e.join(when, config))
    names = ("never", "end", "always")
    half = advance_all(loop, dict.fromkeys(names, 3))
    full = advance_all(loop, dict.fromkeys(names, 3))
    assert {name: len(answer.texts) for name, answer in half.items()} == {"never": 0, "end": 0, "always": 3}
    assert {name: len(answer.texts) for name, answer in full.items()} == {"never": 0, "end": 3, "always": 3}


def test_who_asks_joins_the_very_next_step(loop: EngineLoop, engine: Engine) -> None:
    loop.call(lambda e: e.join("a", trial_config(training={"max_steps": 50})))
    loop.call(lambda e: e.join("b", trial_config(training={"max_steps": 50, "seed": 1})))
    widths: list[int] = []
    genuine = engine.step

    def step(names: Any) -> None:
        widths.append(len(list(names)))
        if len(widths) == 3:
            # Asked for between the third step and the fourth.
            late.append(pool.submit(loop.advance, "b", 2))
            while loop._calls.empty():
                pass
        genuine(names)

    late: list[Future] = []
    engine.step = step  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        loop.advance("a", 10)
        late[0].result(10)
    assert widths[:6] == [1, 1, 1, 2, 2, 1]


def test_a_failing_engine_fails_those_who_wait_and_nobody_else(loop: EngineLoop, engine: Engine) -> None:
    loop.call(lambda e: e.join("a", trial_config()))
    genuine = engine.step

    def fail(_: Any) -> None:
        raise ArithmeticError("boom")

    engine.step = fail  # type: ignore[method-assign]
    with pytest.raises(ArithmeticError, match="boom"):
        loop.advance("a", 1)
    engine.step = genuine  # type: ignore[method-assign]
    assert loop.advance("a", 1).record[records.STEP] == 1


def test_leaving_while_waiting_is_told(loop: EngineLoop, engine: Engine) -> None:
    loop.call(lambda e: e.join("a", trial_config(training={"max_steps": 10**6})))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(loop.advance, "a", 10**6)
        while not loop.call(lambda e: e.tenant("a").step):
            pass
        loop.leave("a")
        with pytest.raises(RuntimeError, match="'a' has left its engine"):
            waiting.result(10)


def test_an_unknown_trial_is_refused(loop: EngineLoop) -> None:
    with pytest.raises(KeyError, match="no trial 'x'"):
        loop.advance("x", 1)


def test_a_failing_call_fails_its_caller_alone(loop: EngineLoop) -> None:
    with pytest.raises(KeyError):
        loop.call(lambda e: e.tenant("nobody"))
    assert loop.call(lambda e: len(e.data.train)) == 13


def test_the_loop_waits_for_one_just_answered_but_not_for_long(engine: Engine) -> None:
    now = [100.0]
    loop = EngineLoop(engine, clock=lambda: now[0])
    loop._advances = {"b": (Advance("b", 1, 100.0), Future())}
    loop._answered = {"a": 100.0}
    loop._step_seconds = 0.2
    assert loop._wait_s() == pytest.approx(0.2)
    now[0] = 100.15
    assert loop._wait_s() == pytest.approx(0.05)
    now[0] = 101.0
    assert loop._wait_s() == 0
    loop._step_seconds = 60.0
    now[0] = 100.0
    assert loop._wait_s() == 0.5
    loop._advances = {}
    assert loop._wait_s() is None
    loop.close()


def test_time_that_others_took_is_told_as_waiting(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    now, gate = [0.0], threading.Event()
    step, evaluate = engine.step, engine.evaluate

    def slow_step(names: Any) -> None:
        step(names)
        now[0] += 1

    def slow_evaluate(names: Any) -> dict[str, dict[str, Any]]:
        now[0] += 5
        return evaluate(names)

    monkeypatch.setattr(engine, "step", slow_step)
    monkeypatch.setattr(engine, "evaluate", slow_evaluate)
    loop = EngineLoop(engine, clock=lambda: now[0])
    for number, name in enumerate("ab"):
        loop.call(lambda e, name=name, n=number: e.join(name, trial_config(training={"seed": n})))
    with ThreadPoolExecutor(3) as pool:
        pool.submit(loop.call, lambda _: gate.wait(10))
        asked = {name: pool.submit(loop.advance, name, steps) for name, steps in (("a", 1), ("b", 2))}
        while loop._calls.qsize() < 2:
            threading.Event().wait(0.01)
        gate.set()
        answers = {name: future.result(30).record for name, future in asked.items()}
    loop.close()
    assert answers["a"][records.WAITING] == 0
    # Two steps of its own; the evaluation of the other is what it waited for.
    assert answers["b"][records.WAITING] == 5
