"""A random micro model, a table of random rows, and an independent trainer to compare the engine with."""

from dataclasses import dataclass

import numpy as np
import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model, set_peft_model_state_dict
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, get_scheduler

from trainable.config import LoraConfig, TrialConfig
from trainable.engine.batching import DataOrder

VOCABULARY = 61


@dataclass(frozen=True)
class FakeTable:
    """Rows in memory, with the interface of a `TokenTable`; each is its ids and where its target begins."""

    rows: tuple[tuple[tuple[int, ...], int], ...]
    rows_truncated: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(ids) for ids, _ in self.rows])

    @property
    def target_tokens(self) -> int:
        return sum(len(ids) - begin for ids, begin in self.rows)

    @property
    def target_lengths(self) -> np.ndarray:
        return np.array([len(ids) - begin for ids, begin in self.rows])

    def ids(self, row: int) -> np.ndarray:
        return np.array(self._row(row)[0], dtype=np.int64)

    def labels(self, row: int) -> np.ndarray:
        ids, begin = self._row(row)
        return np.array([-100] * begin + list(ids[begin:]), dtype=np.int64)

    def prompt_ids(self, row: int) -> np.ndarray:
        return self.ids(row)[: self._row(row)[1]]

    def prompt(self, row: int) -> str:
        return " ".join(map(str, self.prompt_ids(row)))

    def target(self, row: int) -> str:
        return " ".join(map(str, self.ids(row)[self._row(row)[1] :]))

    def _row(self, row: int) -> tuple[tuple[int, ...], int]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a table of {len(self)}")
        return self.rows[row]


@dataclass(frozen=True)
class FakeData:
    """Train and validation rows with a hash."""

    train: FakeTable
    val: FakeTable
    data_hash: str = "0" * 64


class FakeTokenizer:
    """Names tokens by their numbers."""

    pad_token_id = 0
    eos_token_id = 2

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return " ".join(str(token) for token in tokens if token > 2)


def random_table(rows: int, seed: int, longest: int = 20) -> FakeTable:
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(rows):
        length = int(generator.integers(4, longest + 1))
        ids = tuple(int(token) for token in generator.integers(3, VOCABULARY, length))
        made.append((ids, int(generator.integers(1, length - 1))))
    return FakeTable(tuple(made))


def micro_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def trial_config(**sections: dict) -> TrialConfig:
    """Return a configuration for the micro model; keyword arguments are sections."""
    training = {"max_steps": 6, "batch_size": 2, "learning_rate": 1e-2, "seed": 7, "warmup_ratio": 0.2}
    evaluation = {"batch_size": 3, "max_new_tokens": 5, "text_rows": 3}
    return TrialConfig.model_validate(
        {
            "lora": {"r": 4, "alpha": 8} | sections.pop("lora", {}),
            "training": training | sections.pop("training", {}),
            "evaluation": evaluation | sections.pop("evaluation", {}),
        }
        | sections
    )


@dataclass
class Reference:
    """What transformers, PEFT and torch's AdamW make of the same rows."""

    losses: list[float]
    norms: list[float]
    adapter: dict[str, torch.Tensor]
    eval_loss: float


def peft_config(lora: LoraConfig) -> PeftLoraConfig:
    """Say in PEFT's words what our configuration means; a regular expression stands alone there."""
    exclude = lora.exclude_modules
    targets = lora.target_modules
    return PeftLoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        use_rslora=lora.use_rslora,
        lora_dropout=0.0,
        target_modules=targets[0].removeprefix("regex:") if targets[0].startswith("regex:") else targets,
        exclude_modules=exclude[0].removeprefix("regex:") if exclude and "regex:" in exclude[0] else exclude,
        layers_to_transform=lora.layers_to_transform,
        rank_pattern=dict(lora.rank_pattern),
        alpha_pattern=dict(lora.alpha_pattern),
        init_lora_weights={"kaiming": True}.get(lora.init, lora.init),
        task_type="CAUSAL_LM",
    )


def train_with_peft(config: TrialConfig, adapter: dict[str, torch.Tensor], data: FakeData) -> Reference:
    """Train one adapter alone, from `adapter`, with none of the engine's code but the order of rows."""
    training, lora = config.training, config.lora
    model = get_peft_model(micro_model(), peft_config(lora))
    set_peft_model_state_dict(model, adapter)
    parameters = [p for p in model.parameters() if p.requires_grad]
    of_b = [p for name, p in model.named_parameters() if "lora_B" in name]
    of_a = [p for name, p in model.named_parameters() if "lora_A" in name]
    optimiser = torch.optim.AdamW(
        [{"params": of_a}, {"params": of_b, "lr": training.learning_rate * lora.lr_ratio}],
        lr=training.learning_rate,
        betas=(training.beta1, training.beta2),
        eps=training.epsilon,
        weight_decay=training.weight_decay,
    )
    warmup = int(np.ceil(training.warmup_ratio * training.max_steps))
    name = "constant_with_warmup" if training.lr_scheduler == "constant" else training.lr_scheduler
    scheduler = get_scheduler(name, optimiser, warmup, training.max_steps)
    order = DataOrder(len(data.train), training.seed)
    size = training.batch_size * training.gradient_accumulation_steps
    losses, norms = [], []
    for step in range(training.max_steps):
        rows = order.slice(step * size, (step + 1) * size)
        count = sum((data.train.labels(row)[1:] != -100).sum() for row in rows)
        total = 0.0
        for row in rows:
            loss = row_loss(model, data.train, row) / count
            loss.backward()
            total += loss.item()
        limit = training.max_grad_norm or float("inf")
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, limit).item())
        optimiser.step()
        scheduler.step()
        optimiser.zero_grad()
        losses.append(total)
    with torch.no_grad():
        sums = sum(row_loss(model, data.val, row).item() for row in range(len(data.val)))
    count = sum((data.val.labels(row)[1:] != -100).sum() for row in range(len(data.val)))
    weights = {
        key.replace(".default.", "."): value.detach().clone()
        for key, value in model.state_dict().items()
        if "lora_" in key
    }
    return Reference(losses, norms, weights, sums / count)


def row_loss(model: torch.nn.Module, table: FakeTable, row: int) -> torch.Tensor:
    ids = torch.from_numpy(table.ids(row))[None]
    labels = torch.from_numpy(table.labels(row))
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    return functional.cross_entropy(logits, labels[1:], ignore_index=-100, reduction="sum")
