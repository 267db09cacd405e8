"""How many operations a fused step launches; the counts do not depend on the machine."""

import pytest

from benchmarks.launches import count_base, count_peft, count_step, make_trials, mixes


def test_trials_of_one_shape_launch_what_one_trial_launches() -> None:
    one, _ = count_step(make_trials(1))
    assert count_base() < one <= 1.15 * count_peft(0.0)
    assert count_step(make_trials(16))[0] == one


@pytest.mark.parametrize(
    ("mix", "most"),
    [
        ("1 trial, dropout", 1950),
        ("16 trials, equal, dropout", 1950),
        ("16 trials, mixed ranks", 2300),
        ("16 trials, mixed, dropout", 6800),
    ],
)
def test_a_step_launches_no_more_than_its_bound(mix: str, most: int) -> None:
    operations, waits = count_step(mixes()[mix])
    assert operations <= most
    # One for the losses of the pass, one for the gradient norms of all groups.
    assert waits == 2


def test_the_masks_of_a_layer_are_drawn_once_for_all_spans() -> None:
    ranks = (4, 8, 16, 32, 64, 128)
    added = [
        count_step(make_trials(6, ranks=ranks[:unlike], dropout=0.05))[0]
        - count_step(make_trials(6, ranks=ranks[:unlike]))[0]
        for unlike in (1, 6)
    ]
    # Ranks 4 and 8 share a bucket, so these are one span and five: each further one adds its products alone.
    assert added[1] < 1.5 * added[0]
