"""One process at a time holds an experiment in a store, whatever its clock says and however it ends."""

import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from tests.support.s3_server import S3Server
from tests.support.stores import s3
from trainable.errors import ExperimentError, StorageError
from tune.store.lease import Lease

__all__ = ["s3"]


class Clock:
    """Seconds of one machine; sleeping lets them pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def lease(s3: S3Server, clock: Clock | None = None, *, lease_s: float = 90.0, renew_s: float = 1e6) -> Lease:
    own = clock or Clock()
    return Lease(s3.uri("e/lock"), "e", lease_s=lease_s, renew_s=renew_s, clock=own, sleep=own.sleep)


def age(s3: S3Server, seconds: float) -> None:
    """Let time pass in the store alone."""
    for key in s3.keys("e/lock/"):
        s3.objects[key].changed -= seconds


def test_a_second_process_is_refused_with_who_holds_it_and_the_end_frees_it(s3: S3Server) -> None:
    first, second = lease(s3), lease(s3)
    assert not second.is_held()
    with first.held():
        assert second.is_held()
        with pytest.raises(ExperimentError, match=r"worked on by process \d+ on .* since 20.*in 90 seconds"):
            second.held().__enter__()
        first.check()
    assert not second.is_held()
    assert s3.keys("e/lock/") == []
    with second.held():
        second.check()


def test_a_holder_that_was_killed_is_succeeded_when_its_claim_has_ended(s3: S3Server) -> None:
    killed, next_one = lease(s3).held(), lease(s3)
    killed.__enter__()
    age(s3, 80)
    with pytest.raises(ExperimentError, match="is being worked on"):
        next_one.held().__enter__()
    age(s3, 20)
    assert not next_one.is_held()
    with next_one.held():
        assert len(s3.keys("e/lock/")) == 1


def test_a_holder_that_was_cut_off_for_too_long_writes_nothing_once_another_holds_it(s3: S3Server) -> None:
    clock = Clock()
    cut_off, other = lease(s3, clock), lease(s3)
    with cut_off.held():
        clock.now += 100
        age(s3, 100)
        with other.held():
            for _ in range(2):
                with pytest.raises(StorageError, match=r"was taken over by process \d+"):
                    cut_off.check()
            # Nothing of it is left that the other one could take for a holder.
            assert len(s3.keys("e/lock/")) == 1
        # The other one has ended: it may go on.
        cut_off.check()


def test_a_holder_that_was_cut_off_and_not_succeeded_claims_again(s3: S3Server) -> None:
    clock = Clock()
    with (one := lease(s3, clock)).held():
        clock.now += 100
        age(s3, 100)
        before = len(s3.requests)
        one.check()
        assert ("PUT", s3.keys("e/lock/")[0]) in s3.requests[before:]
        before = len(s3.requests)
        one.check()
        assert len(s3.requests) == before


def test_the_claim_is_put_anew_while_it_is_held(s3: S3Server) -> None:
    with lease(s3, renew_s=0.05).held():
        age(s3, 80)
        old = s3.objects[s3.keys("e/lock/")[0]].changed
        deadline = time.monotonic() + 10
        while s3.objects[s3.keys("e/lock/")[0]].changed == old and time.monotonic() < deadline:
            time.sleep(0.02)
        assert s3.objects[s3.keys("e/lock/")[0]].changed > old


def test_of_many_that_start_at_the_same_moment_exactly_one_holds_it(s3: S3Server) -> None:
    holding, most, refused = 0, 0, 0
    guard, all_tried = threading.Lock(), threading.Barrier(6)

    def contend() -> None:
        nonlocal holding, most, refused
        one = Lease(s3.uri("e/lock"), "e")
        all_tried.wait()
        try:
            with one.held():
                with guard:
                    holding += 1
                    most = max(most, holding)
                all_tried.wait()
                with guard:
                    holding -= 1
        except ExperimentError:
            with guard:
                refused += 1
            all_tried.wait()

    threads = [threading.Thread(target=contend) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (most, refused) == (1, 5)


def test_a_store_that_refuses_is_one_error(s3: S3Server) -> None:
    one = lease(s3)
    with s3.outage(403), pytest.raises(StorageError, match="ACCESS_DENIED"):
        one.held().__enter__()


HOLD = """
import sys
from tune.store.lease import Lease

with Lease(sys.argv[1], "e").held():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_process_that_died_on_this_machine_holds_nothing(s3: S3Server) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, s3.uri("e/lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert lease(s3).is_held()
        with pytest.raises(ExperimentError, match=f"worked on by process {holder.pid} on "):
            lease(s3).held().__enter__()
        holder.kill()
        holder.stdout.read()
        # Dead, though nobody has asked how it ended yet.
        with lease(s3).held():
            assert len(s3.keys("e/lock/")) == 1


WAITING = "e/lock/0waiting"


@pytest.mark.parametrize("takes_over", [False, True])
def test_a_holder_that_returns_while_another_process_is_waiting_settles_it_with_that_one(
    s3: S3Server, takes_over: bool
) -> None:
    clock = Clock()

    def decide(seconds: float) -> None:
        """The waiting one withdraws, because it has seen the claim, or takes over, because it has not."""
        clock.now += seconds
        claim = s3.objects.pop(WAITING)
        if takes_over:
            claim.content = claim.content.replace(b"waiting", b"held")
            s3.objects[WAITING] = claim

    returning = Lease(s3.uri("e/lock"), "e", renew_s=1e6, clock=clock, sleep=decide)
    with returning.held():
        clock.now += 100
        content = b'{"host": "other", "pid": 1, "since": "2026", "state": "waiting"}'
        s3.objects[WAITING] = replace(s3.objects[s3.keys("e/lock/")[0]], content=content)
        if takes_over:
            with pytest.raises(StorageError, match="was taken over by process 1 on other since 2026"):
                returning.check()
        else:
            returning.check()
