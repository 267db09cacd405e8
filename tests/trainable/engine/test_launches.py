"""How many operations a fused step launches; the counts do not depend on the machine."""

import pytest

from benchmarks.launches import Counts, count, count_peft, make_trials, mixes

MARGIN = 1.15


@pytest.fixture(scope="module")
def peft() -> dict[bool, Counts]:
    """One trial with PEFT, with and without dropout."""
    return {dropout: count_peft(0.05 if dropout else 0.0) for dropout in (False, True)}


@pytest.mark.parametrize("mix", mixes())
def test_any_mix_launches_what_one_trial_with_peft_launches(mix: str, peft: dict[bool, Counts]) -> None:
    found, one = count(mixes()[mix]), peft["dropout" in mix]
    assert found.step <= MARGIN * one.step
    assert found.evaluation <= MARGIN * one.evaluation
    assert found.token <= MARGIN * one.token
    # For the losses of the passes and the gradient norms of all trials together.
    assert found.waits == 1


def test_more_trials_launch_no_more() -> None:
    one, many = count(make_trials(1)), count(make_trials(16))
    # With several trials, their gradient norms are stacked.
    assert many.step <= one.step + 1
