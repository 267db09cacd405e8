"""One trial as the engine holds it: its adapter, how far it has come, what it has to report."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trainable import records
from trainable.config import TrialConfig
from trainable.engine.batching import DataOrder, Portion
from trainable.lora.adamw import AdamWStep
from trainable.lora.adapter import Adapter
from trainable.lora.schedules import learning_rate, total_steps
from trainable.lora.targets import AdapterPlan
from trainable.records import TrialState


@dataclass
class Window:
    """What happened since the last record."""

    losses: list[float] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    watched: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0

    def saved(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of it: all but the histograms."""
        return {key: value for key, value in asdict(self).items() if key != "watched"}


@dataclass
class Tenant:
    """A trial that shares the engine.

    Attributes:
        name: unique in the engine.
        config: the trial's own.
        plan: its adapter's layers, ranks and scales.
        adapter: what is trained.
        order: its stream of training rows.
        rows: training rows in the data set.
        step: optimizer steps taken.
        micro_step: forward passes taken of the present optimizer step.
        loss: what they have summed up to.
        state, reason: `RUNNING` until it completes, diverges or does not fit.
    """

    name: str
    config: TrialConfig
    plan: AdapterPlan
    adapter: Adapter
    order: DataOrder
    rows: int
    step: int = 0
    micro_step: int = 0
    loss: float = 0.0
    grad_norm: float = 0.0
    state: TrialState = TrialState.RUNNING
    reason: str | None = None
    window: Window = field(default_factory=Window)

    @property
    def rows_per_step(self) -> int:
        """Rows of one optimizer step."""
        return self.config.training.batch_size * self.config.training.gradient_accumulation_steps

    @property
    def max_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return total_steps(self.config.training, self.rows)

    @property
    def rate(self) -> float:
        """The learning rate of the step being taken."""
        return learning_rate(self.config.training, self.step, self.max_steps)

    def step_rows(self) -> list[int]:
        """Return all rows of the optimizer step being taken."""
        start = self.step * self.rows_per_step
        return self.order.slice(start, start + self.rows_per_step)

    def next_portion(self) -> Portion:
        """Return the rows of the next forward pass."""
        size = self.config.training.batch_size
        begin = self.micro_step * size
        return Portion(self.name, tuple(self.step_rows()[begin : begin + size]), begin)

    def adamw_step(self) -> AdamWStep:
        """Return the update of the step being taken."""
        training = self.config.training
        return AdamWStep(
            step=self.step + 1,
            learning_rate=self.rate,
            beta1=training.beta1,
            beta2=training.beta2,
            epsilon=training.epsilon,
            weight_decay=training.weight_decay,
            b_rate_ratio=self.config.lora.lr_ratio,
        )

    def finish_step(self, grad_norm: float) -> None:
        """Count an optimizer step that was committed."""
        self.window.losses.append(self.loss)
        self.grad_norm = grad_norm
        self.step += 1
        self.micro_step, self.loss = 0, 0.0
        if self.step >= self.max_steps:
            self.state = TrialState.COMPLETED

    def end(self, state: TrialState, reason: str) -> None:
        """End the trial for a reason of its own."""
        self.state, self.reason = state, reason

    def record(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return the metrics record of now, `metrics` included, and begin a new window."""
        window, self.window = self.window, Window()
        # The rate that the last step was taken with; before the first, that of the first.
        rate = learning_rate(self.config.training, max(0, self.step - 1), self.max_steps)
        record: dict[str, Any] = {
            records.STEP: self.step,
            records.MAX_STEPS: self.max_steps,
            records.STATE: self.state.value,
            records.TRAIN_LEARNING_RATE: rate,
            records.TRAIN_EPOCH: self.step * self.rows_per_step / self.rows,
            records.TRAIN_GRAD_NORM: self.grad_norm,
            records.TRAIN_ADAPTER_PARAMETERS: self.adapter.size,
        }
        if self.reason:
            record[records.REASON] = self.reason
        if window.losses:
            record[records.TRAIN_LOSS] = math.fsum(window.losses) / len(window.losses)
        if window.widths:
            record[records.FUSED_WIDTH] = sum(window.widths) / len(window.widths)
        if window.seconds > 0:
            record[records.TRAIN_TOKENS_PER_SECOND] = window.tokens / window.seconds
        if window.watched:
            record[records.HISTOGRAMS] = window.watched
        return record | dict(metrics)
