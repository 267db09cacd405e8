"""Packed training: many trials train at once over one frozen base model on one device.

A trial *joins* as a tenant, takes steps together with whoever else has steps to take, is evaluated,
generates, is saved, and *leaves*. What it computes is what it would compute alone: it has its own rows,
schedule, dropout, gradient norm and optimizer step, and rows of a pass do not see each other. Training alone
is an engine with one tenant.

The engine is passive and has no threads: the caller decides which trials take the next step. A tenant whose
loss or gradient is not finite, or of which a single row does not fit the device, ends with a state and a
reason; nothing is committed for it and nobody else is touched. Running out of memory for any other reason
halves the token budget and repeats the pass.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainable import records
from trainable.checkpoint.tensors import Checkpoint
from trainable.config import LoraConfig, TrialConfig
from trainable.data import PreparedData, TokenTable
from trainable.engine.batching import DataOrder, Portion, collate, target_tokens
from trainable.engine.histograms import add_histograms
from trainable.engine.packed_forward import FusedModel
from trainable.engine.rows import alike_prompts, in_chunks
from trainable.engine.saving import make_checkpoint, restore
from trainable.engine.self_check import check_packing
from trainable.engine.spans import Member, costs_of, make_spans
from trainable.engine.tenant import Tenant
from trainable.engine.token_budget import Passes
from trainable.errors import ConfigError
from trainable.evaluation import Generated, new_tokens, sample_rows
from trainable.lora.adamw import adamw_step, clip_gradients, gradient_norms
from trainable.lora.adapter import Adapter
from trainable.lora.description import ModelDescription
from trainable.lora.packed_linear import stacked_parameters
from trainable.lora.span import AdapterSpan
from trainable.lora.targets import AdapterPlan, plan_adapter
from trainable.model import BaseModel
from trainable.records import TrialState


@dataclass(frozen=True)
class TrainPass:
    """What one forward and backward computed.

    Attributes:
        spans: hold the gradients.
        losses: `[portions]` each portion's part of its trial's loss, on the device.
        tokens: real tokens of each portion.
    """

    spans: list[AdapterSpan]
    losses: Tensor
    tokens: list[int]


class Engine:
    """Trains the adapters of its tenants over one base model.

    Attributes:
        shapes: `(d_in, d_out)` of every layer that can be adapted, by its dotted name.
        left_out: the linear layers that cannot be adapted, each with the reason.
        passes: lays rows into passes; holds the budget of tokens.
        costs: what decides which adapters share a span.
    """

    def __init__(
        self,
        base: BaseModel,
        data: PreparedData,
        *,
        max_tokens_per_pass: int | None = None,
        max_cores: int | None = None,
        gradient_checkpointing: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Take over the base model, which is wrapped in place.

        Args:
            base: frozen, on its device.
            data: tokenized rows.
            max_tokens_per_pass: budget of padded tokens; `None` for the device's default.
            max_cores: cores that a CPU engine may use; `None`: all that the process may.
            gradient_checkpointing: whether backward computes the base model's blocks again.
            clock: seconds, for tokens per second.

        Raises:
            ModelError: the model mixes the rows of a batch, has no positions for the longest, or no blocks to
                compute again.
        """
        self.base = base
        self.data = data
        self.device = base.module.device
        self.passes = Passes(self.device, max_tokens_per_pass, max_cores)
        self._clock = clock
        self._model = FusedModel(base, gradient_checkpointing=gradient_checkpointing)
        self.shapes = self._model.shapes
        self.left_out = self._model.left_out
        longest = max(int(table.lengths.max()) for table in (data.train, data.val, data.test) if table)
        self._model.check_length(longest, "the longest row of the data", "data.max_length")
        widths = [width for shape in self.shapes.values() for width in shape]
        self.costs = costs_of(self.device, self._model.dtype, widths)
        self._tenants: dict[str, Tenant] = {}

    def join(self, name: str, config: TrialConfig, checkpoint: Checkpoint | None = None) -> Tenant:
        """Take a trial in, with a fresh adapter or the one of its checkpoint.

        Raises:
            ConfigError: `lora` names no layer of the model, or the trial's name is taken.
            CheckpointError: the checkpoint is of another model, adapter shape or data set.
        """
        if name in self._tenants:
            raise ConfigError(f"a trial named '{name}' is in this engine already; let it leave first.")
        plan = self.plan(config.lora)
        adapter = Adapter(self.shapes, plan.ranks, plan.scales, self.device)
        rows = len(self.data.train)
        tenant = Tenant(name, config, plan, adapter, DataOrder(rows, config.training.seed), rows)
        if checkpoint is None:
            adapter.initialize(config.training.seed, config.lora.init)
        else:
            restore(tenant, checkpoint, self.base, self.data.data_hash)
        self._tenants[name] = tenant
        return tenant

    def leave(self, name: str) -> None:
        """Let go of a trial and its adapter; unknown names are ignored, so that leaving twice is allowed."""
        self._tenants.pop(name, None)

    def tenant(self, name: str) -> Tenant:
        """Return the tenant called `name`."""
        return self._tenants[name]

    def plan(self, lora: LoraConfig) -> AdapterPlan:
        """Return the layers that `lora` means, with the rank and the scale at each.

        Raises:
            ConfigError: it names no layer of the model, or one that cannot be adapted.
        """
        return plan_adapter(self.shapes, lora, self.left_out)

    @property
    def prompts_together(self) -> str:
        """Which prompts are continued in one batch: `any`, `one length`, or `none`."""
        return self._model.prompts_together

    def describe(self, name: str) -> ModelDescription:
        """Describe the base model, under the name that it was configured by."""
        module = self.base.module
        return ModelDescription(
            name,
            type(module).__name__,
            module.num_parameters(),
            dict(self.shapes),
            dict(self.left_out),
            stacked_parameters(module),
            getattr(module.config.get_text_config(), "hidden_size", None),
        )

    def check(self, config: TrialConfig) -> None:
        """Check on this very model that packed training, and generation, compute what they should.

        Args:
            config: its evaluation section sets for how many rows, and how many tokens, are generated.

        Raises:
            ModelError: they do not, or a prompt leaves too few positions for the tokens to be generated.
        """
        check_packing(self.base, self._model, ragged=self.costs.ragged)
        evaluation = config.evaluation
        if evaluation.text_metrics != "never":
            new = new_tokens(evaluation, self.data.val.target_lengths)
            for table in (self.data.val, self.data.test or self.data.val):
                rows = sample_rows(len(table), evaluation.text_rows)
                self._check_prompts([len(table.prompt_ids(row)) for row in rows], new)

    def probe(self, config: TrialConfig, rows: int) -> None:
        """Run one training pass over `rows` copies of the longest row and discard what it computes."""
        tenant = self.join("probe", config)
        longest = int(self.data.train.lengths.argmax())
        try:
            self._train_pass([Portion(tenant.name, (longest,) * rows)], {tenant.name: 1.0})
        finally:
            self.leave(tenant.name)

    def step(self, names: Iterable[str]) -> None:
        """Take one fused forward and backward for the named trials.

        A trial whose accumulated batch is thereby complete takes its optimizer step.
        """
        tenants = self._in_order(names)
        began = self._clock()
        portions = [tenant.next_portion() for tenant in tenants]
        share = {t.name: 1 / target_tokens(self.data.train, t.step_rows()) for t in tenants}
        tokens: dict[str, int] = defaultdict(int)
        owners: list[str] = []
        losses: list[Tensor] = []
        for part, done in self.passes.run(
            portions, self.data.train.lengths, lambda part: self._train_pass(part, share), self._does_not_fit
        ):
            # Only now, that nothing can fail any more, is the pass part of the trials' batches.
            for span in done.spans:
                span.add_gradients()
            losses.append(done.losses)
            for portion, count in zip(part, done.tokens, strict=True):
                owners.append(portion.owner)
                tokens[portion.owner] += count
        alive = [tenant for tenant in tenants if tenant.state is TrialState.RUNNING]
        due = []
        for tenant in alive:
            tenant.micro_step += 1
            if tenant.micro_step == tenant.config.training.gradient_accumulation_steps:
                due.append(tenant)
                add_histograms(tenant)
        norms = [gradient_norms([tenant.adapter for tenant in due])] if due else []
        # The one wait for the device in a step.
        values = torch.cat([*losses, *norms]).tolist() if losses else []
        for owner, loss in zip(owners, values, strict=False):
            self._tenants[owner].loss += loss
        self._optimize(due, values[len(owners) :])
        seconds = self._clock() - began
        for tenant in alive:
            tenant.window.tokens += tokens[tenant.name]
            tenant.window.seconds += seconds
            tenant.window.widths.append(len(tenants))

    def evaluate(self, names: Iterable[str], table: TokenTable | None = None) -> dict[str, dict[str, Any]]:
        """Return a metrics record of each named trial, `eval/loss` included.

        `eval/loss` is the mean cross-entropy, in nats, over the target tokens of `table`, the validation rows
        by default, of which `evaluation.max_rows` may leave a sample. A trial that has ended for a reason of
        its own is not evaluated; its record says why it ended.
        """
        tenants = self._in_order(names)
        table = self.data.val if table is None else table
        sums: dict[str, float] = defaultdict(float)
        counts: dict[str, int] = defaultdict(int)
        alive = [t for t in tenants if t.state in (TrialState.RUNNING, TrialState.COMPLETED)]
        rows = {tenant.name: self._evaluation_rows(tenant, table) for tenant in alive}
        for portions in in_chunks(alive, rows):
            for part, (losses, number) in self.passes.run(
                portions, table.lengths, lambda part: self._evaluation_pass(part, table), self._does_not_fit
            ):
                for portion, loss, count in zip(part, losses, number, strict=True):
                    sums[portion.owner] += loss
                    counts[portion.owner] += count
        found: dict[str, dict[str, Any]] = {}
        for tenant in tenants:
            metrics: dict[str, Any] = {records.DEVICE: str(self.device)}
            if counts[tenant.name]:
                loss = sums[tenant.name] / counts[tenant.name]
                if math.isfinite(loss):
                    metrics |= {records.EVAL_LOSS: loss, records.EVAL_ROWS: len(rows[tenant.name])}
                else:
                    tenant.end(TrialState.DIVERGED, f"eval/loss is {loss} at step {tenant.step}")
            found[tenant.name] = tenant.record(metrics)
        return found

    def generate(self, rows: Mapping[str, Sequence[int]], table: TokenTable) -> dict[str, list[Generated]]:
        """Return each named trial's greedy continuations of the prompts of its `rows`, in their order.

        A row that does not fit the device has none.
        """
        tenants = self._in_order(rows)
        texts: dict[str, dict[int, Generated]] = {tenant.name: {} for tenant in tenants}
        prompts = {row: table.prompt_ids(row) for wanted in rows.values() for row in wanted}
        limit = {t.name: new_tokens(t.config.evaluation, self.data.val.target_lengths) for t in tenants}
        new = max(limit.values(), default=0)
        lengths = np.zeros(len(table), dtype=np.int64)
        lengths[list(prompts)] = [len(prompt) + new for prompt in prompts.values()]
        self._check_prompts([len(prompt) for prompt in prompts.values()], new)

        def continue_prompts(portions: Sequence[Portion]) -> list[Generated]:
            wanted = [(row, limit[portion.owner]) for portion in portions for row in portion.rows]
            ids = [prompts[row] for row, _ in wanted]
            longest = max(limit[portion.owner] for portion in portions)
            with torch.inference_mode():
                width = max(len(prompt) for prompt in ids)
                spans = self._spans(portions, width, training=False)
                written = self._model.generate(ids, spans, longest)
            # A continuation is returned without its end token, so one that ended is shorter than its limit.
            return [
                Generated(row, self._model.text(tokens[:most]), len(tokens) < most)
                for (row, most), tokens in zip(wanted, written, strict=True)
            ]

        for alike in alike_prompts(self._model.prompts_together, rows, lengths):
            for portions in in_chunks([t for t in tenants if t.name in alike], alike):
                for part, written in self.passes.run(portions, lengths, continue_prompts, self._does_not_fit):
                    wanted = [(portion.owner, row) for portion in part for row in portion.rows]
                    for (owner, row), text in zip(wanted, written, strict=True):
                        texts[owner][row] = text
        return {name: [found[row] for row in rows[name] if row in found] for name, found in texts.items()}

    def _check_prompts(self, lengths: Sequence[int], new: int) -> None:
        if lengths and self._model.prompts_together:
            what = f"the longest prompt with evaluation.max_new_tokens = {new}"
            self._model.check_length(max(lengths) + new, what, "evaluation.max_new_tokens")

    def snapshot(self, name: str, record: dict[str, Any]) -> Checkpoint:
        """Copy all that a trial needs to continue elsewhere, with its last metrics record, to the CPU."""
        return make_checkpoint(self._tenants[name], self.base, self.data.data_hash, record)

    def _in_order(self, names: Iterable[str]) -> list[Tenant]:
        """Sort tenants so that those that can share a span stand together."""
        tenants = [self._tenants[name] for name in dict.fromkeys(names)]
        return sorted(
            tenants, key=lambda t: (t.plan.targets, t.plan.rank, t.config.training.batch_size, t.name)
        )

    def _does_not_fit(self, owner: str, tokens: int) -> None:
        self._tenants[owner].end(TrialState.OOM, f"one row of {tokens} tokens does not fit {self.device}")

    def _train_pass(self, portions: Sequence[Portion], share: Mapping[str, float]) -> TrainPass:
        """Forward and backward of one pass."""
        batch = collate(portions, self.data.train, self._model.pad_id, self.device)
        spans = self._spans(portions, batch.input_ids.shape[1], training=True)
        losses = self._model.losses(batch, spans)
        weights = losses.new_tensor([share[portion.owner] for portion in portions])
        weighted = losses * weights[batch.portion]
        weighted.sum().backward()
        sums = torch.zeros_like(weights).index_add_(0, batch.portion, weighted.detach())
        return TrainPass(spans, sums, batch.tokens)

    def _evaluation_pass(
        self, portions: Sequence[Portion], table: TokenTable
    ) -> tuple[list[float], list[int]]:
        """Return each portion's summed loss and its number of target tokens."""
        with torch.inference_mode():
            batch = collate(portions, table, self._model.pad_id, self.device)
            spans = self._spans(portions, batch.input_ids.shape[1], training=False)
            losses = self._model.losses(batch, spans)
            sums = torch.zeros(len(portions), dtype=torch.float64, device=self.device)
            sums.index_add_(0, batch.portion, losses.double())
            return sums.tolist(), batch.targets

    def _spans(self, portions: Sequence[Portion], width: int, *, training: bool) -> list[AdapterSpan]:
        members = [Member(portion, self._tenants[portion.owner]) for portion in portions]
        return make_spans(members, width, self.costs, self._model.dtype, training=training)

    def _optimize(self, due: Sequence[Tenant], norms: Sequence[float]) -> None:
        """Commit the steps of those whose numbers are finite."""
        sound = []
        for tenant, norm in zip(due, norms, strict=True):
            if math.isfinite(tenant.loss) and math.isfinite(norm):
                sound.append((tenant, norm))
            else:
                what = f"loss is {tenant.loss}, gradient norm {norm}"
                tenant.end(TrialState.DIVERGED, f"{what} at step {tenant.step + 1}")
        adapters = [tenant.adapter for tenant, _ in sound]
        limits = [tenant.config.training.max_grad_norm for tenant, _ in sound]
        clip_gradients(adapters, [norm for _, norm in sound], limits)
        adamw_step(adapters, [tenant.adamw_step() for tenant, _ in sound])
        for tenant, norm in sound:
            tenant.finish_step(norm)

    def _evaluation_rows(self, tenant: Tenant, table: TokenTable) -> list[int]:
        """Return the rows that a loss is computed on, short ones first, so that a pass pads little."""
        limit = tenant.config.evaluation.max_rows if table is self.data.val else None
        return sorted(sample_rows(len(table), limit), key=lambda row: int(table.lengths[row]))
