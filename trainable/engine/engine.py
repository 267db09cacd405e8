"""Packed training: many trials train at once over one frozen base model on one device.

A trial *joins* as a tenant, takes steps together with whoever else has steps to take, is evaluated,
generates, is saved, and *leaves*. What it computes is what it would compute alone: it has its own rows,
schedule, dropout, gradient norm and optimiser step, and rows of a pass do not see each other. Training alone
is an engine with one tenant.

The engine is passive and has no threads: the caller says who takes the next step. A tenant whose loss or
gradient is not finite, or of which a single row does not fit the device, ends with a state and a reason;
nothing is committed for it and nobody else is touched. Running out of memory for any other reason halves
the token budget and repeats the pass.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainable import records
from trainable.checkpoint.tensors import Checkpoint
from trainable.config import TrialConfig
from trainable.data import PreparedData, TokenTable
from trainable.engine.batching import DataOrder, Portion, collate, target_tokens
from trainable.engine.histograms import watch
from trainable.engine.packed_forward import FusedModel
from trainable.engine.tenant import Tenant, Window
from trainable.engine.token_budget import Passes
from trainable.errors import CheckpointError, ConfigError
from trainable.evaluation import Generated, new_tokens, sample_rows
from trainable.lora.adamw import adamw_step, clip_gradients
from trainable.lora.description import ModelDescription
from trainable.lora.dropout import DropoutKeys, row_keys
from trainable.lora.group import AdapterGroup, GroupKey, adapter_scale, rank_bucket
from trainable.lora.packed_linear import Run
from trainable.lora.peft_format import export_rows, import_rows
from trainable.lora.targets import resolve_targets
from trainable.model import BaseModel
from trainable.records import TrialState


@dataclass(frozen=True)
class TrainPass:
    """What one forward and backward has computed: gradients in the runs; by portion, loss and real tokens."""

    runs: list[Run]
    losses: list[float]
    tokens: list[int]


class Engine:
    """Trains the adapters of its tenants over one base model.

    Attributes:
        shapes: `(d_in, d_out)` of every layer that can be adapted, by its dotted name.
        passes: lays rows into passes; holds the budget of tokens.
    """

    def __init__(
        self,
        base: BaseModel,
        data: PreparedData,
        *,
        max_tokens_per_pass: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Take over the base model, which is wrapped in place.

        Args:
            base: frozen, on its device.
            data: tokenised rows.
            max_tokens_per_pass: budget of padded tokens; `None` for the device's default.
            clock: seconds, for tokens per second.
        """
        self.base = base
        self.data = data
        self.device = base.module.device
        self.passes = Passes(self.device, max_tokens_per_pass)
        self._clock = clock
        self._model = FusedModel(base)
        self.shapes = self._model.shapes
        self._groups: dict[GroupKey, AdapterGroup] = {}
        self._tenants: dict[str, Tenant] = {}

    def join(self, name: str, config: TrialConfig, checkpoint: Checkpoint | None = None) -> Tenant:
        """Give a trial a slot, with a fresh adapter or the one of its checkpoint.

        Raises:
            ConfigError: `lora.target_modules` names no layer of the model, or the name is taken.
            CheckpointError: the checkpoint is of another model, adapter shape or data set.
        """
        if name in self._tenants:
            raise ConfigError(f"a trial named '{name}' is in this engine already; let it leave first.")
        key = GroupKey(rank_bucket(config.lora.r), self.targets(config.lora.target_modules))
        if key not in self._groups:
            self._groups[key] = AdapterGroup(key, self._model.shapes, self.device)
        group = self._groups[key]
        slot = group.claim()
        rows = len(self.data.train)
        tenant = Tenant(name, config, group, slot, DataOrder(rows, config.training.seed), rows)
        try:
            if checkpoint is None:
                group.initialise(slot, config.lora.r, config.training.seed)
            else:
                self._restore(tenant, checkpoint)
        except Exception:
            group.release(slot)
            raise
        self._tenants[name] = tenant
        return tenant

    def leave(self, name: str) -> None:
        """Free a trial's slot; unknown names are ignored, so that leaving twice is no error."""
        tenant = self._tenants.pop(name, None)
        if tenant is not None:
            tenant.group.release(tenant.slot)

    def tenant(self, name: str) -> Tenant:
        """Return the tenant called `name`."""
        return self._tenants[name]

    def targets(self, target_modules: str | Sequence[str]) -> tuple[str, ...]:
        """Return the layers that `lora.target_modules` means.

        Raises:
            ConfigError: it names no layer of the model.
        """
        return resolve_targets(self.shapes, target_modules)

    def describe(self, name: str) -> ModelDescription:
        """Describe the base model, under the name that it was configured by."""
        module = self.base.module
        return ModelDescription(name, type(module).__name__, module.num_parameters(), dict(self.shapes))

    def probe(self, config: TrialConfig, rows: int) -> None:
        """Run one training pass, of so many copies of the longest row, and forget what it computes."""
        tenant = self.join("probe", config)
        longest = int(self.data.train.lengths.argmax())
        try:
            self._train_pass([Portion(tenant.name, (longest,) * rows)], {tenant.name: 1.0})
        finally:
            self.leave(tenant.name)

    def step(self, names: Iterable[str]) -> None:
        """Take one fused forward and backward for the named trials.

        A trial whose accumulated batch is thereby complete takes its optimiser step.
        """
        tenants = self._in_order(names)
        began = self._clock()
        portions = [tenant.next_portion() for tenant in tenants]
        share = {t.name: 1 / target_tokens(self.data.train, t.step_rows()) for t in tenants}
        tokens: dict[str, int] = defaultdict(int)
        for part, done in self.passes.run(
            portions, self.data.train.lengths, lambda part: self._train_pass(part, share), self._does_not_fit
        ):
            # Only now, that nothing can fail any more, is the pass part of the trials' batches.
            self._add_gradients(part, done.runs)
            for portion, loss, count in zip(part, done.losses, done.tokens, strict=True):
                self._tenants[portion.owner].loss += loss
                tokens[portion.owner] += count
        alive = [tenant for tenant in tenants if tenant.state is TrialState.RUNNING]
        due = []
        for tenant in alive:
            tenant.micro_step += 1
            if tenant.micro_step == tenant.config.training.gradient_accumulation_steps:
                due.append(tenant)
        self._optimise(due)
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
        rows = {t.name: self._evaluation_rows(t, table) for t in alive}
        for portions in _chunks(alive, rows):
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

        def continue_prompts(portions: Sequence[Portion]) -> list[Generated]:
            wanted = [(row, limit[portion.owner]) for portion in portions for row in portion.rows]
            ids = [prompts[row] for row, _ in wanted]
            longest = max(limit[portion.owner] for portion in portions)
            with torch.inference_mode():
                written = self._model.generate(ids, self._runs(portions, training=False), longest)
            # A continuation is returned without its end token, so one that ended is shorter than its limit.
            return [
                Generated(row, self._model.text(tokens[:most]), len(tokens) < most)
                for (row, most), tokens in zip(wanted, written, strict=True)
            ]

        for portions in _chunks(tenants, rows):
            for part, written in self.passes.run(portions, lengths, continue_prompts, self._does_not_fit):
                wanted = [(portion.owner, row) for portion in part for row in portion.rows]
                for (owner, row), text in zip(wanted, written, strict=True):
                    texts[owner][row] = text
        return {name: [found[row] for row in rows[name] if row in found] for name, found in texts.items()}

    def snapshot(self, name: str, record: dict[str, Any]) -> Checkpoint:
        """Copy all that a trial needs to go on elsewhere, with its last metrics record, to the CPU."""
        tenant = self._tenants[name]
        group, slot, rank = tenant.group, tenant.slot, tenant.config.lora.r
        return Checkpoint(
            config=tenant.config,
            step=tenant.step,
            record=record,
            base_name=self.base.name_or_path,
            data_hash=self.data.data_hash,
            targets=group.key.targets,
            window=tenant.window.saved(),
            adapter=export_rows(group, group.parameters[slot], rank),
            exp_avg=export_rows(group, group.exp_avg[slot], rank),
            exp_avg_sq=export_rows(group, group.exp_avg_sq[slot], rank),
        )

    def _restore(self, tenant: Tenant, checkpoint: Checkpoint) -> None:
        if checkpoint.data_hash != self.data.data_hash:
            raise CheckpointError(
                f"trial '{tenant.name}': its checkpoint was trained on other data "
                f"({checkpoint.data_hash[:12]}, not {self.data.data_hash[:12]}). Put the data files back."
            )
        group, slot, rank = tenant.group, tenant.slot, tenant.config.lora.r
        group.parameters[slot] = import_rows(group, checkpoint.adapter, rank).to(self.device)
        group.exp_avg[slot] = import_rows(group, checkpoint.exp_avg, rank).to(self.device)
        group.exp_avg_sq[slot] = import_rows(group, checkpoint.exp_avg_sq, rank).to(self.device)
        tenant.step = checkpoint.step
        tenant.window = Window(**checkpoint.window)
        if tenant.step >= tenant.max_steps:
            tenant.state = TrialState.COMPLETED

    def _in_order(self, names: Iterable[str]) -> list[Tenant]:
        """Sort tenants so that those that can share a run stand together."""
        tenants = [self._tenants[name] for name in dict.fromkeys(names)]
        return sorted(tenants, key=lambda t: (t.group.key, t.config.training.batch_size, t.slot))

    def _does_not_fit(self, owner: str, tokens: int) -> None:
        self._tenants[owner].end(TrialState.OOM, f"one row of {tokens} tokens does not fit {self.device}")

    def _train_pass(self, portions: Sequence[Portion], share: Mapping[str, float]) -> TrainPass:
        """Forward and backward of one pass."""
        runs = self._runs(portions, training=True)
        batch = collate(portions, self.data.train, self._model.pad_id, self.device)
        losses = self._model.losses(batch, runs)
        weights = losses.new_tensor([share[portion.owner] for portion in portions])
        weighted = losses * weights[batch.portion]
        weighted.sum().backward()
        sums = torch.zeros_like(weights).index_add_(0, batch.portion, weighted.detach())
        return TrainPass(runs, sums.tolist(), batch.tokens)

    def _evaluation_pass(
        self, portions: Sequence[Portion], table: TokenTable
    ) -> tuple[list[float], list[int]]:
        """Return each portion's summed loss and its number of target tokens."""
        with torch.inference_mode():
            batch = collate(portions, table, self._model.pad_id, self.device)
            losses = self._model.losses(batch, self._runs(portions, training=False))
            sums = torch.zeros(len(portions), dtype=torch.float64, device=self.device)
            sums.index_add_(0, batch.portion, losses.double())
            return sums.tolist(), torch.bincount(batch.portion, minlength=len(portions)).tolist()

    def _add_gradients(self, portions: Sequence[Portion], runs: Sequence[Run]) -> None:
        begin = 0
        for run in runs:
            slots = self._slots(portions[begin : begin + len(run.weights)])
            run.group.gradients.index_add_(0, slots, run.gradients.float())
            begin += len(run.weights)

    def _optimise(self, due: Sequence[Tenant]) -> None:
        """Clip and commit the steps of those whose batch is complete and whose numbers are finite."""
        for _, members in groupby(due, key=lambda tenant: tenant.group.key):
            tenants = list(members)
            group = tenants[0].group
            for tenant in tenants:
                watch(tenant)
            limits = [tenant.config.training.max_grad_norm for tenant in tenants]
            norms = clip_gradients(group, [tenant.slot for tenant in tenants], limits).tolist()
            sound = []
            for tenant, norm in zip(tenants, norms, strict=True):
                if math.isfinite(tenant.loss) and math.isfinite(norm):
                    sound.append((tenant, norm))
                else:
                    what = f"loss is {tenant.loss}, gradient norm {norm}"
                    tenant.end(TrialState.DIVERGED, f"{what} at step {tenant.step + 1}")
            adamw_step(group, [tenant.adamw_row() for tenant, _ in sound])
            for tenant, norm in sound:
                tenant.finish_step(norm)

    def _runs(self, portions: Sequence[Portion], *, training: bool) -> list[Run]:
        """Make a run of each stretch of portions with one group and one number of rows."""
        runs: list[Run] = []
        row = 0
        for (_, rows_each), members in groupby(
            portions, key=lambda p: (self._tenants[p.owner].group.key, len(p.rows))
        ):
            part = list(members)
            tenants = [self._tenants[portion.owner] for portion in part]
            group = tenants[0].group
            weights = group.parameters.index_select(0, self._slots(part)).to(self._model.dtype)
            scales = [
                adapter_scale(t.config.lora.r, t.config.lora.alpha, t.config.lora.use_rslora) for t in tenants
            ]
            run = Run(group, row, rows_each, weights, weights.new_tensor(scales).view(-1, 1, 1))
            if training:
                run.gradients = torch.zeros_like(weights)
                run.dropout = self._dropout(part, tenants)
            runs.append(run)
            row += len(part) * rows_each
        return runs

    def _dropout(self, portions: Sequence[Portion], tenants: Sequence[Tenant]) -> DropoutKeys | None:
        rates = [tenant.config.lora.dropout for tenant in tenants]
        if not any(rates):
            return None
        keys = [
            row_keys(t.config.training.seed, t.step, range(p.offset, p.offset + len(p.rows)))
            for p, t in zip(portions, tenants, strict=True)
        ]
        signed = torch.tensor(keys, dtype=torch.int64).sub_(2**31).to(torch.int32)
        return DropoutKeys(signed.to(self.device), torch.tensor(rates, device=self.device))

    def _slots(self, portions: Sequence[Portion]) -> Tensor:
        return torch.tensor([self._tenants[p.owner].slot for p in portions], device=self.device)

    def _evaluation_rows(self, tenant: Tenant, table: TokenTable) -> list[int]:
        """Return the rows that a loss is computed on, short ones first, so that a pass pads little."""
        limit = tenant.config.evaluation.max_rows if table is self.data.val else None
        return sorted(sample_rows(len(table), limit), key=lambda row: int(table.lengths[row]))


def _chunks(tenants: Sequence[Tenant], rows: Mapping[str, Sequence[int]]) -> Iterator[list[Portion]]:
    """Yield portions of all tenants, an evaluation batch of each at a time."""
    begin = dict.fromkeys(rows, 0)
    while any(begin[name] < len(rows[name]) for name in rows):
        portions = []
        for tenant in tenants:
            start = begin[tenant.name]
            begin[tenant.name] = start + tenant.config.evaluation.batch_size
            if part := tuple(rows[tenant.name][start : begin[tenant.name]]):
                portions.append(Portion(tenant.name, part))
        yield portions
