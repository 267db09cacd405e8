"""Which steps a run's history holds, as the server returns it and as an offline file has it."""

import pytest

from trainable.tracking.server import logged_steps

FLATTENED = {"step": 2, "_timestamp": 1.5, "gradients/q.lora_A._type": "histogram"}
ROWS = [
    FLATTENED | {"gradients/q.lora_A.values": "[1,2]", "gradients/q.lora_A.packedBins.min": -0.5},
    {"step": 2, "gradients/q.lora_A": {"_type": "histogram", "values": [1, 2]}},
    {"step": 2, "predictions._type": "table-file", "predictions.nrows": 2, "_step": 7},
    {"step": 2, "predictions": {"_type": "table-file", "nrows": 2}},
]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_a_histogram_or_a_table_is_not_that_of_the_plain_values(row: dict[str, object]) -> None:
    assert logged_steps([row]) == set()
    assert logged_steps([row | {"eval/loss": 1.0}]) == {2}
    assert logged_steps([row, {"step": 4, "predictions_per_second": 3.0}]) == {4}
