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
        places: of each row within the trial's optimizer batch; none when only evaluating.
    """

    owner: str
    rows: tuple[int, ...]
    places: tuple[int, ...] = ()

    def part(self, chosen: Sequence[int]) -> "Portion":
        """Return the rows at the positions `chosen` of it."""
        places = tuple(self.places[number] for number in chosen) if self.places else ()
        return Portion(self.owner, tuple(self.rows[number] for number in chosen), places)


def plan_passes(
    portions: Sequence[Portion], lengths: np.ndarray, max_tokens: int, pass_tokens: float
) -> list[list[Portion]]:
    """Lay the rows of portions into the passes that cost least, rows of like length together.

    A pass costs its padded tokens, rows x longest row, and a constant. It holds at most `max_tokens` padded
    tokens; a single row always forms a pass: whether it fits shows on the device. With the rows in order of
    their length, the best passes for the first j rows end in some last pass i..j, and before that are the
    best for the first i.

    Args:
        portions: sorted so that trials whose adapters are alike stand together.
        lengths: `[rows of the table]` tokens of each row.
        max_tokens: the budget.
        pass_tokens: the constant: padded tokens that take as long as a pass takes beside its tokens.

    Returns:
        The passes, the largest first; in each, the portions and their rows in the order given.
    """
    rows = [(index, number) for index, portion in enumerate(portions) for number in range(len(portion.rows))]
    row_lengths = np.array([lengths[portions[index].rows[number]] for index, number in rows], dtype=np.int64)
    order = np.argsort(row_lengths, kind="stable")
    ordered = row_lengths[order]
    cost = np.zeros(len(rows) + 1)
    begins = np.zeros(len(rows) + 1, dtype=np.int64)
    for end in range(1, len(rows) + 1):
        longest = int(ordered[end - 1])
        first = max(0, end - max(1, max_tokens // longest))
        costs = cost[first:end] + pass_tokens + np.arange(end - first, 0, -1) * longest
        begins[end] = first + int(costs.argmin())
        cost[end] = costs.min()
    passes: list[tuple[int, list[Portion]]] = []
    end = len(rows)
    while end:
        begin = int(begins[end])
        chosen: dict[int, list[int]] = {}
        for place in sorted(order[begin:end]):
            index, number = rows[place]
            chosen.setdefault(index, []).append(number)
        padded = (end - begin) * int(ordered[end - 1])
        passes.append((padded, [portions[index].part(numbers) for index, numbers in chosen.items()]))
        end = begin
    return [planned for _, planned in sorted(passes, key=lambda one: -one[0])]


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
