"""The engine's one thread: takes requests from many trials and turns them into fused steps.

A trial asks for n steps and an evaluation and waits. Between two fused steps the loop takes in whatever has
come: joining, leaving and saving are done at once; whoever asked for steps is part of the very next one. A
trial that has its steps is evaluated together with those that got theirs in the same step.

A trial that was just answered asks again as soon as Ray has processed its record. The loop holds the
next step back for it, but never longer than the last step took: waiting then costs at most what a step
without that trial would have cost, and buys the width of the pack.

If the engine itself fails, every waiting request gets the error, and the loop continues with the next one.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from trainable import records
from trainable.engine import Engine
from trainable.engine.assessment import generate_sample
from trainable.engine.tenant import Tenant
from trainable.evaluation import Generated
from trainable.records import TrialState

ResultT = TypeVar("ResultT")

MAX_PATIENCE_S = 0.5
"""The longest that a step is held back for trials that were just answered."""


@dataclass
class Advance:
    """A trial's request for steps, and what it is answered with.

    Attributes:
        asked: when, by the loop's clock.
        worked: seconds of the fused steps that it took part in.
    """

    name: str
    target_step: int
    asked: float
    worked: float = 0.0
    record: dict[str, Any] = field(default_factory=dict)
    texts: list[Generated] = field(default_factory=list)


class EngineLoop:
    """Serializes the requests of many threads onto one engine."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the loop's thread; `close` ends it."""
        self._engine = engine
        self._clock = clock
        self._calls: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._advances: dict[str, tuple[Advance, Future[Advance]]] = {}
        self._answered: dict[str, float] = {}
        self._step_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def call(self, function: Callable[[Engine], ResultT]) -> ResultT:
        """Run `function` on the engine at the next step boundary and return what it returns."""
        future: Future[ResultT] = Future()

        def work() -> None:
            try:
                future.set_result(function(self._engine))
            except BaseException as error:
                future.set_exception(error)

        self._calls.put(work)
        return future.result()

    def advance(self, name: str, steps: int) -> Advance:
        """Train `name` for up to `steps` optimizer steps, evaluate it, and generate where it is due."""
        future: Future[Advance] = Future()
        asked = self._clock()

        def work() -> None:
            try:
                request = Advance(name, self._engine.tenant(name).step + steps, asked)
            except KeyError:
                future.set_exception(KeyError(f"no trial '{name}' is in this engine"))
            else:
                self._answered.pop(name, None)
                self._advances[name] = request, future

        self._calls.put(work)
        return future.result()

    def leave(self, name: str) -> None:
        """Free the slot of `name`; a request that still waits for its steps gets an error."""

        def work(engine: Engine) -> None:
            _, future = self._advances.pop(name, (None, None))
            if future is not None:
                future.set_exception(RuntimeError(f"trial '{name}' has left its engine"))
            self._answered.pop(name, None)
            engine.leave(name)

        self.call(work)

    def close(self) -> None:
        """End the thread after the requests that are in the queue."""
        self._calls.put(None)
        self._thread.join()

    def _run(self) -> None:
        while self._take_calls():
            if not self._advances:
                continue
            try:
                self._answer([name for name in self._advances if self._has_its_steps(name)])
                if self._advances:
                    began = self._clock()
                    self._engine.step(self._advances)
                    self._step_seconds = self._clock() - began
                    for request, _ in self._advances.values():
                        request.worked += self._step_seconds
            except BaseException as error:
                for _, future in self._advances.values():
                    future.set_exception(error)
                self._advances.clear()

    def _take_calls(self) -> bool:
        """Do what is in the queue; wait for it where nothing else is to be done. False: close."""
        while True:
            try:
                work = self._calls.get(timeout=self._wait_s())
            except queue.Empty:
                return True
            if work is None:
                return False
            work()

    def _wait_s(self) -> float | None:
        """How long to wait for the next request: for ever if idle, else for those just answered."""
        if not self._advances:
            return None
        patience = min(self._step_seconds, MAX_PATIENCE_S)
        latest = max(self._answered.values(), default=float("-inf"))
        return max(0.0, latest + patience - self._clock())

    def _has_its_steps(self, name: str) -> bool:
        tenant = self._engine.tenant(name)
        return tenant.state is not TrialState.RUNNING or tenant.step >= self._advances[name][0].target_step

    def _answer(self, names: Sequence[str]) -> None:
        if not names:
            return
        began = self._clock()
        found = self._engine.evaluate(names)
        wanted = [name for name in names if _wants_texts(self._engine.tenant(name))]
        texts = generate_sample(self._engine, wanted, self._engine.data.val)
        for name in names:
            request, future = self._advances.pop(name)
            request.record, request.texts = found[name], texts.get(name, [])
            self._answered[name] = self._clock()
            waited = (began - request.asked) - request.worked
            request.record[records.WAITING] = max(0.0, waited)
            future.set_result(request)


def _wants_texts(tenant: Tenant) -> bool:
    match tenant.config.evaluation.text_metrics:
        case "always":
            return tenant.state in (TrialState.RUNNING, TrialState.COMPLETED)
        case "end":
            return tenant.state is TrialState.COMPLETED
        case "never":
            return False
