"""Which rows a trial sees when, and how the rows of many trials are laid into fused passes.

A trial's data order is a pure function of its seed: pass after pass over the rows, each pass shuffled anew,
read as one endless stream. Its position is therefore its step count and nothing else has to be saved.

Rows are padded on the right. Under a causal mask no token sees what lies to its right, so padding changes
neither a row's loss nor its gradients, and no attention mask is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainable.data import TokenTable

IGNORED = -100
"""The label of a token that no loss is computed on."""


class DataOrder:
    """The endless stream of row numbers that one trial reads."""

    def __init__(self, rows: int, seed: int) -> None:
        """Shuffle `rows` rows, anew in each pass, by `seed`."""
        self._rows = rows
        self._seed = seed
        self._passes: dict[int, np.ndarray] = {}

    def slice(self, start: int, stop: int) -> list[int]:
        """Return the row numbers at positions `start` to `stop` of the stream."""
        positions = (divmod(position, self._rows) for position in range(start, stop))
        return [int(self._pass(number)[place]) for number, place in positions]

    def _pass(self, number: int) -> np.ndarray:
        if number not in self._passes:
            shuffled = np.random.default_rng((self._seed, number)).permutation(self._rows)
            # A batch spans two passes at the most where the data set is no smaller than it.
            self._passes = {n: order for n, order in self._passes.items() if n >= number - 1}
            self._passes[number] = shuffled
        return self._passes[number]


@dataclass(frozen=True)
class Portion:
    """Rows of one trial in one pass.

    Attributes:
        owner: the trial's name.
        rows: row numbers in the table.
        offset: number of the first row within the trial's optimizer batch.
    """

    owner: str
    rows: tuple[int, ...]
    offset: int = 0

    def part(self, start: int, stop: int) -> "Portion":
        """Return the rows `start` to `stop` of it."""
        return Portion(self.owner, self.rows[start:stop], self.offset + start)


def plan_passes(portions: Sequence[Portion], lengths: np.ndarray, max_tokens: int) -> list[list[Portion]]:
    """Lay portions, in their order, into as few passes as the token budget allows.

    A pass holds rows x longest row <= `max_tokens` padded tokens; a portion that does not fit is split
    between passes. A single row always forms a pass: whether it fits shows on the device.

    Args:
        portions: sorted so that trials of one group stand together.
        lengths: `[rows of the table]` tokens of each row.
        max_tokens: the budget.
    """
    passes: list[list[Portion]] = [[]]
    held, longest = 0, 0
    for portion in portions:
        begin = 0
        for index, row in enumerate(portion.rows):
            widest = max(longest, int(lengths[row]))
            if held and (held + 1) * widest > max_tokens:
                if index > begin:
                    passes[-1].append(portion.part(begin, index))
                passes.append([])
                begin, held, widest = index, 0, int(lengths[row])
            held, longest = held + 1, widest
        if begin < len(portion.rows):
            passes[-1].append(portion.part(begin, len(portion.rows)))
    return passes if passes[-1] else passes[:-1]


@dataclass(frozen=True)
class Batch:
    """The tensors of one pass.

    Attributes:
        input_ids: `[rows, T]`, padded on the right.
        position: `[M]` flat indices of the tokens whose next token a loss is computed on.
        target: `[M]` those next tokens.
        portion: `[M]` which portion of the pass each belongs to.
        tokens: real tokens of each portion.
        targets: those of each portion that a loss is computed on.
    """

    input_ids: Tensor
    position: Tensor
    target: Tensor
    portion: Tensor
    tokens: list[int]
    targets: list[int]


def collate(portions: Sequence[Portion], table: TokenTable, pad_id: int, device: torch.device) -> Batch:
    """Stack the portions' rows."""
    owners = [number for number, portion in enumerate(portions) for _ in portion.rows]
    ids = [table.ids(row) for portion in portions for row in portion.rows]
    labels = [table.labels(row) for portion in portions for row in portion.rows]
    width = max(len(row) for row in ids)
    input_ids = np.full((len(ids), width), pad_id, dtype=np.int64)
    next_label = np.full((len(ids), width), IGNORED, dtype=np.int64)
    tokens = [0] * len(portions)
    for number, (row, label) in enumerate(zip(ids, labels, strict=True)):
        input_ids[number, : len(row)] = row
        next_label[number, : len(row) - 1] = label[1:]
        tokens[owners[number]] += len(row)
    position = np.flatnonzero(next_label != IGNORED)
    portion = np.repeat(owners, width)[position]
    return Batch(
        torch.from_numpy(input_ids).to(device),
        torch.from_numpy(position).to(device),
        torch.from_numpy(next_label.reshape(-1)[position]).to(device),
        torch.from_numpy(portion).to(device),
        tokens,
        np.bincount(portion, minlength=len(portions)).tolist(),
    )


def target_tokens(table: TokenTable, rows: Sequence[int]) -> int:
    """Return how many tokens of `rows` a loss is computed on."""
    return int(sum(np.count_nonzero(table.labels(row)[1:] != IGNORED) for row in rows))
