"""Operations that a training step launches, counted for mixes of trials.

    python -m benchmarks.launches

A fused step pays on a GPU as long as it is not bound by the operations that the processor launches. Counted
are the operations that do work (views and allocations are left out) and the host's waits for a value, in one
step, evaluation or generated token, taken in one pass, as on a GPU. The counts do not depend on the machine.
The base model has random weights in Qwen2's form, with four layers. They are printed, and written to
`benchmarks/results/launches.json`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from benchmarks.record import write_result
from trainable.config import TrialConfig
from trainable.engine import Engine
from trainable.engine.batching import Portion, plan_passes
from trainable.engine.spans import ON_GPU
from trainable.engine.token_budget import Passes
from trainable.model import BaseModel

ResultT = TypeVar("ResultT")

RANKS = (4, 8, 16, 32, 64, 128)
BATCH_SIZES = (2, 4, 8)
TARGETS = ("all-linear", ["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "o_proj"])
SCHEDULES = ("cosine", "linear", "constant")
NEW_TOKENS = 8
TOKENS = 12
_ALLOCATIONS = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "detach")


class Launches(TorchDispatchMode):
    """Counts operations that do work, by name."""

    def __init__(self) -> None:
        """Begin at zero."""
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operation and run it."""
        name = func.overloadpacket.__name__
        self.count += not (func.is_view or name in _ALLOCATIONS)
        return func(*args, **(kwargs or {}))


class Waits(TorchFunctionMode):
    """Counts the calls that make the host wait for a value from the device."""

    def __init__(self) -> None:
        """Begin at zero."""
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count a call if it waits, and run it."""
        self.count += func in (torch.Tensor.item, torch.Tensor.tolist)
        return func(*args, **(kwargs or {}))


class OnePassAtATime(Passes):
    """Runs passes as a GPU does: one after the other, in the calling thread."""

    def run(
        self,
        portions: Sequence[Portion],
        lengths: np.ndarray,
        work: Callable[[list[Portion]], ResultT],
        unfit: Callable[[str, int], None],
    ) -> Iterator[tuple[list[Portion], ResultT]]:
        """Yield each pass with its result."""
        for part in plan_passes(list(portions), lengths, self.max_tokens):
            yield part, work(part)


@dataclass(frozen=True)
class Rows:
    """Random rows of 12 tokens, as an engine reads a table; a loss is computed on all but the first token."""

    count: int = 64

    def __len__(self) -> int:
        return self.count

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        return np.full(self.count, TOKENS)

    def ids(self, row: int) -> np.ndarray:
        """Return a row's tokens."""
        return np.random.default_rng(row).integers(3, 61, TOKENS)

    labels = ids

    def prompt_ids(self, row: int) -> np.ndarray:
        """Return the tokens that a text begins with."""
        return self.ids(row)[: TOKENS // 2]

    @property
    def target_lengths(self) -> np.ndarray:
        """Tokens of each row's text."""
        return np.full(self.count, TOKENS // 2)


@dataclass(frozen=True)
class Data:
    """Rows to train on and to evaluate."""

    train: Rows = Rows()
    val: Rows = Rows(16)
    test: None = None
    data_hash: str = "random"


class Padding:
    """What the engine asks of a tokenizer here."""

    pad_token_id = 0
    eos_token_id = None

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool) -> str:
        """Return tokens as text."""
        return " ".join(map(str, tokens))


@dataclass(frozen=True)
class Counts:
    """Operations and waits of one training step, operations of one evaluation and of one generated token."""

    step: int
    waits: int
    evaluation: int
    token: int


def counted(action: Callable[[], Any]) -> tuple[int, int]:
    """Return the operations and the waits of `action`."""
    with Launches() as launches, Waits() as waits:
        action()
    return launches.count, waits.count


def make_model(layers: int = 4) -> Qwen2ForCausalLM:
    """Return a frozen model in Qwen2's form with random weights."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return Qwen2ForCausalLM(config).eval().requires_grad_(False)


def count_base() -> Counts:
    """Count the base model alone: forward and backward to its inputs, loss, generation."""
    model, ids = make_model(), _ids()
    embeddings = model.get_input_embeddings()(ids).requires_grad_()
    step, _ = counted(lambda: model(inputs_embeds=embeddings, labels=ids).loss.backward())
    return Counts(step, 0, *_count_reading(model))


def count_peft(dropout: float) -> Counts:
    """Count one trial with PEFT: a step with clipping and AdamW, loss, generation."""
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", lora_dropout=dropout)
    model = get_peft_model(make_model(), lora).train()
    ids = _ids()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, foreach=True)

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step()
    operations, waits = counted(step)
    return Counts(operations, waits, *_count_reading(model.eval()))


def _count_reading(model: Any) -> tuple[int, int]:
    """Return the operations of a loss, and of a generated token, the prompt's pass among them."""
    ids = _ids()
    options = GenerationConfig(max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)
    with torch.inference_mode():
        loss, _ = counted(lambda: model(input_ids=ids, labels=ids).loss)
        prompt, mask = ids[:, : TOKENS // 2], torch.ones(2, TOKENS // 2, dtype=torch.int64)
        texts, _ = counted(
            lambda: model.generate(input_ids=prompt, attention_mask=mask, generation_config=options)
        )
    return loss, round(texts / NEW_TOKENS)


def _ids() -> torch.Tensor:
    return torch.arange(2 * TOKENS).view(2, TOKENS) + 3


def make_trials(
    number: int,
    *,
    ranks: Sequence[int] = (8,),
    batch_sizes: Sequence[int] = (2,),
    targets: Sequence[str | list[str]] = ("all-linear",),
    schedules: Sequence[str] = ("cosine",),
    dropout: float = 0.0,
) -> dict[str, TrialConfig]:
    """Return trials that take the ranks, batch sizes, targets and schedules in turn."""
    return {
        f"trial_{index}": TrialConfig.model_validate(
            {
                "lora": {
                    "r": ranks[index % len(ranks)],
                    "alpha": 16,
                    "dropout": dropout,
                    "target_modules": targets[index // 2 % len(targets)],
                },
                "training": {
                    "max_steps": 9,
                    "lr_scheduler": schedules[index % len(schedules)],
                    "batch_size": batch_sizes[index // len(ranks) % len(batch_sizes)],
                    "seed": index,
                },
                "evaluation": {"max_new_tokens": NEW_TOKENS},
            }
        )
        for index in range(number)
    }


def count(trials: dict[str, TrialConfig]) -> Counts:
    """Count what trials launch together, after a first step that fills what is kept."""
    tokenizer: Any = Padding()
    data: Any = Data()
    engine = Engine(BaseModel(make_model(), tokenizer, "random"), data)
    engine.passes = OnePassAtATime(engine.device, 10**6)
    engine.costs = ON_GPU
    for name, config in trials.items():
        engine.join(name, config)
    engine.step(trials)
    step, waits = counted(lambda: engine.step(trials))
    evaluation, _ = counted(lambda: engine.evaluate(trials))
    rows = dict.fromkeys(trials, (0, 1))
    # Found out once, when first asked.
    assert engine.prompts_together == "any"
    texts, _ = counted(lambda: engine.generate(rows, data.val))
    return Counts(step, waits, evaluation, round(texts / NEW_TOKENS))


def mixes() -> dict[str, dict[str, TrialConfig]]:
    """Return the mixes of trials that are counted, by what they are called."""
    sizes = {"ranks": RANKS, "batch_sizes": BATCH_SIZES}
    everything = {**sizes, "schedules": SCHEDULES, "targets": TARGETS}
    return {
        "1 trial": make_trials(1),
        "16 trials, equal": make_trials(16),
        "16 trials, mixed ranks": make_trials(16, ranks=RANKS),
        "16 trials, mixed ranks and batch sizes": make_trials(16, **sizes),
        "16 trials, mixed in everything": make_trials(16, **everything),
        "1 trial, dropout": make_trials(1, dropout=0.05),
        "16 trials, equal, dropout": make_trials(16, dropout=0.05),
        "16 trials, mixed in everything, dropout": make_trials(16, **everything, dropout=0.05),
        "32 trials, mixed in everything, dropout": make_trials(32, **everything, dropout=0.05),
    }


def main() -> None:
    """Count, print, write."""
    found = {
        "base model": count_base(),
        "PEFT, 1 trial": count_peft(0.0),
        "PEFT, 1 trial, dropout": count_peft(0.05),
        **{name: count(trials) for name, trials in mixes().items()},
    }
    table = Table(title="Operations, four layers")
    table.add_column("", no_wrap=True)
    for head in ("step", "of the base", "waits", "evaluation", "token"):
        table.add_column(head, justify="right")
    for name, counts in found.items():
        ratio = f"{counts.step / found['base model'].step:.1f}x"
        table.add_row(
            name, f"{counts.step:,}", ratio, str(counts.waits), str(counts.evaluation), str(counts.token)
        )
    Console().print(table)
    write_result("launches", {name: asdict(counts) for name, counts in found.items()})


if __name__ == "__main__":
    main()
