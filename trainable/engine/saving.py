"""From a tenant to the checkpoint that continues it elsewhere, and back."""

from pathlib import Path
from typing import Any

from trainable.checkpoint.tensors import Checkpoint
from trainable.engine.tenant import Tenant, Window
from trainable.errors import CheckpointError
from trainable.lora.peft_format import export_rows, import_rows
from trainable.model import BaseModel
from trainable.records import TrialState


def make_checkpoint(tenant: Tenant, base: BaseModel, data_hash: str, record: dict[str, Any]) -> Checkpoint:
    """Copy all that a trial needs to continue elsewhere to the CPU.

    Args:
        tenant: the trial.
        base: the model it is trained over.
        data_hash: of the data it is trained on.
        record: its last metrics record.
    """
    adapter = tenant.adapter
    return Checkpoint(
        config=tenant.config,
        step=tenant.step,
        record=record,
        base_name=base.name_or_path,
        base_id=base.identity,
        data_hash=data_hash,
        targets=tenant.plan.targets,
        window=tenant.window.saved(),
        adapter=export_rows(adapter, adapter.parameters),
        exp_avg=export_rows(adapter, adapter.exp_avg),
        exp_avg_sq=export_rows(adapter, adapter.exp_avg_sq),
    )


def restore(tenant: Tenant, checkpoint: Checkpoint, base: BaseModel, data_hash: str) -> None:
    """Continue a fresh tenant from a checkpoint.

    Raises:
        CheckpointError: it is of another base model, other data, or an adapter of another shape.
    """
    _check_base(tenant, checkpoint, base)
    if checkpoint.data_hash != data_hash:
        raise CheckpointError(
            f"trial '{tenant.name}': its checkpoint was trained on other data "
            f"({checkpoint.data_hash[:12]}, not {data_hash[:12]}). Put the data files back."
        )
    adapter = tenant.adapter
    adapter.parameters.copy_(import_rows(adapter, checkpoint.adapter))
    adapter.exp_avg.copy_(import_rows(adapter, checkpoint.exp_avg))
    adapter.exp_avg_sq.copy_(import_rows(adapter, checkpoint.exp_avg_sq))
    tenant.step = checkpoint.step
    tenant.window = Window(**checkpoint.window)
    if tenant.step >= tenant.max_steps:
        tenant.state = TrialState.COMPLETED


def _check_base(tenant: Tenant, checkpoint: Checkpoint, base: BaseModel) -> None:
    """Refuse the checkpoint of another base model."""
    if checkpoint.base_id is None:
        # An older checkpoint knows no more than the configured name.
        then, now = (Path(config.model.name).name for config in (checkpoint.config, tenant.config))
    else:
        then, now = checkpoint.base_id, base.identity
    if then != now:
        raise CheckpointError(
            f"trial '{tenant.name}': its checkpoint was trained over the base model "
            f"'{checkpoint.base_name}' ({then[:24]}), not over '{base.name_or_path}' ({now[:24]}). "
            "Set model.name, and its files, to what they were."
        )
