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

import gc
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainable import records
from trainable.batching import DataOrder, Portion, collate, plan_passes, target_tokens
from trainable.checkpoint import Checkpoint
from trainable.config import TrialConfig
from trainable.data import PreparedData, TokenTable
from trainable.errors import CheckpointError, ConfigError
from trainable.fused import FusedModel
from trainable.lora import (
    AdapterGroup,
    DropoutKeys,
    GroupKey,
    Run,
    adamw_step,
    adapter_scale,
    clip_gradients,
    rank_bucket,
    resolve_targets,
)
from trainable.lora.dropout import row_keys
from trainable.lora.peft_format import export_rows, import_rows
from trainable.model import BaseModel
from trainable.records import TrialState
from trainable.tenant import Tenant
from trainable.watch import watch

DEFAULT_TOKENS_PER_PASS = {"cpu": 8192, "cuda": 65536}
"""Padded tokens a pass may begin with; running out of memory lowers it."""


class Engine:
    """Trains the adapters of its tenants over one base model."""

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
        self.max_tokens = max_tokens_per_pass or DEFAULT_TOKENS_PER_PASS[self.device.type]
        self._clock = clock
        self._model = FusedModel(base)
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
        targets = resolve_targets(self._model.shapes, config.lora.target_modules)
        key = GroupKey(rank_bucket(config.lora.r), targets)
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

    def step(self, names: Iterable[str]) -> None:
        """Take one fused forward and backward for the named trials.

        A trial whose accumulated batch is thereby complete takes its optimiser step.
        """
        tenants = self._in_order(names)
        began = self._clock()
        portions = [tenant.next_portion() for tenant in tenants]
        share = {t.name: 1 / target_tokens(self.data.train, t.step_rows()) for t in tenants}
        tokens = self._in_passes(
            portions, self.data.train.lengths, lambda part: self._train_pass(part, share)
        )
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

        `eval/loss` is the mean cross-entropy, in nats, over all target tokens of `table`, the validation
        rows by default. A trial that has ended for a reason of its own is not evaluated; its record says
        why it ended.
        """
        tenants = self._in_order(names)
        table = self.data.val if table is None else table
        sums: dict[str, float] = defaultdict(float)
        counts: dict[str, int] = defaultdict(int)

        def measure(portions: Sequence[Portion]) -> dict[str, int]:
            batch = collate(portions, table, self._model.pad_id, self.device)
            losses = self._model.losses(batch, self._runs(portions, training=False))
            total = torch.zeros(len(portions), dtype=torch.float64, device=self.device)
            total.index_add_(0, batch.portion, losses.double())
            number = torch.bincount(batch.portion, minlength=len(portions))
            for portion, loss, count in zip(portions, total.tolist(), number.tolist(), strict=True):
                sums[portion.owner] += loss
                counts[portion.owner] += count
            return {}

        alive = [t for t in tenants if t.state in (TrialState.RUNNING, TrialState.COMPLETED)]
        with torch.inference_mode():
            rows = {tenant.name: _evaluation_rows(tenant, table) for tenant in alive}
            for portions in _chunks(alive, rows):
                self._in_passes(portions, table.lengths, measure)
        found: dict[str, dict[str, Any]] = {}
        for tenant in tenants:
            metrics: dict[str, Any] = {records.DEVICE: str(self.device)}
            if counts[tenant.name]:
                loss = sums[tenant.name] / counts[tenant.name]
                if math.isfinite(loss):
                    metrics[records.EVAL_LOSS] = loss
                else:
                    tenant.end(TrialState.DIVERGED, f"eval/loss is {loss} at step {tenant.step}")
            found[tenant.name] = tenant.record(metrics)
        return found

    def generate(self, rows: Mapping[str, Sequence[int]], table: TokenTable) -> dict[str, list[str]]:
        """Return each named trial's greedy continuations of the prompts of its `rows`, in their order."""
        tenants = self._in_order(rows)
        texts: dict[str, dict[int, str]] = {tenant.name: {} for tenant in tenants}
        prompts = {row: table.prompt_ids(row) for wanted in rows.values() for row in wanted}
        new = max((tenant.config.evaluation.max_new_tokens for tenant in tenants), default=0)
        lengths = np.zeros(len(table), dtype=np.int64)
        lengths[list(prompts)] = [len(prompt) + new for prompt in prompts.values()]

        def continue_prompts(portions: Sequence[Portion]) -> dict[str, int]:
            ids = [prompts[row] for portion in portions for row in portion.rows]
            limit = max(self._tenants[portion.owner].config.evaluation.max_new_tokens for portion in portions)
            written = iter(self._model.generate(ids, self._runs(portions, training=False), limit))
            for portion in portions:
                own_limit = self._tenants[portion.owner].config.evaluation.max_new_tokens
                for row in portion.rows:
                    texts[portion.owner][row] = self._model.text(next(written)[:own_limit])
            return {}

        with torch.inference_mode():
            for portions in _chunks(tenants, rows):
                self._in_passes(portions, lengths, continue_prompts)
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
        if tenant.step >= tenant.max_steps:
            tenant.state = TrialState.COMPLETED

    def _in_order(self, names: Iterable[str]) -> list[Tenant]:
        """Sort tenants so that those that can share a run stand together."""
        tenants = [self._tenants[name] for name in dict.fromkeys(names)]
        return sorted(tenants, key=lambda t: (t.group.key, t.config.training.batch_size, t.slot))

    def _in_passes(
        self,
        portions: Sequence[Portion],
        lengths: np.ndarray,
        work: Callable[[Sequence[Portion]], dict[str, int]],
    ) -> dict[str, int]:
        """Do `work` pass by pass within the token budget; repeat with half of it when memory runs out.

        Returns:
            The sum, by trial, of what `work` returned.
        """
        totals: dict[str, int] = defaultdict(int)
        left = list(portions)
        while left:
            part, *rest = plan_passes(left, lengths, self.max_tokens)
            left = [portion for later in rest for portion in later]
            if (done := _unless_out_of_memory(lambda part=part: work(part))) is not None:
                for name, amount in done.items():
                    totals[name] += amount
                continue
            # The failed pass's graph dies with the exception; collect what a cycle may still hold.
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            widest = max(int(lengths[row]) for portion in part for row in portion.rows)
            count = sum(len(portion.rows) for portion in part)
            if count == 1:
                owner = self._tenants[part[0].owner]
                owner.end(TrialState.OOM, f"one row of {widest} tokens does not fit {self.device}")
                left = [portion for portion in left if portion.owner != owner.name]
            else:
                self.max_tokens = max(widest, widest * count // 2)
                left = [*part, *left]
        return totals

    def _train_pass(self, portions: Sequence[Portion], share: dict[str, float]) -> dict[str, int]:
        """Forward and backward of one pass; returns each trial's real tokens."""
        runs = self._runs(portions, training=True)
        batch = collate(portions, self.data.train, self._model.pad_id, self.device)
        losses = self._model.losses(batch, runs)
        weights = losses.new_tensor([share[portion.owner] for portion in portions])
        weighted = losses * weights[batch.portion]
        weighted.sum().backward()
        sums = torch.zeros_like(weights).index_add_(0, batch.portion, weighted.detach()).tolist()
        # Only now, that nothing can fail any more, is the pass part of the trials' batches.
        begin = 0
        for run in runs:
            stop = begin + len(run.weights)
            slots = self._slots(portions[begin:stop])
            run.group.gradients.index_add_(0, slots, run.gradients.float())
            begin = stop
        tokens: dict[str, int] = defaultdict(int)
        for portion, loss, count in zip(portions, sums, batch.tokens, strict=True):
            self._tenants[portion.owner].loss += loss
            tokens[portion.owner] += count
        return tokens

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


def _evaluation_rows(tenant: Tenant, table: TokenTable) -> list[int]:
    """The rows a trial is evaluated on, short ones first, so that a pass pads little."""
    rows = range(min(tenant.config.evaluation.max_rows or len(table), len(table)))
    return sorted(rows, key=lambda row: int(table.lengths[row]))


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


def _unless_out_of_memory(work: Callable[[], dict[str, int]]) -> dict[str, int] | None:
    """Return what `work` returns, or `None` if the device ran out of memory."""
    try:
        return work()
    except torch.OutOfMemoryError:
        return None
    except RuntimeError as error:
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            return None
        raise
