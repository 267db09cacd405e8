"""A single run: one tenant in an engine of its own, in this process, without Ray.

The output folder holds `checkpoint/` (the last step's), `best/` (the best validation loss's), `adapter/`
(the best one, in PEFT's format), `metrics.json`, and the rows that its text metrics rest on:
`val_predictions.jsonl` (of the best metrics record, if it has text metrics) and `predictions.jsonl` (of the
test rows, or of the validation rows where there are none). An interrupted run resumes from `checkpoint/`.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainable import records
from trainable.checkpoint.tensors import Checkpoint, load_checkpoint, save_checkpoint
from trainable.config import TrialConfig
from trainable.engine import Engine
from trainable.engine.assessment import assess, score_sample
from trainable.engine.build import build_engine
from trainable.engine.tenant import Tenant
from trainable.errors import CheckpointError, ExperimentError
from trainable.evaluation import (
    Prediction,
    Scored,
    count_rows,
    held_out_key,
    limit_note,
    metrics_of,
    read_predictions,
    write_predictions,
)
from trainable.objective import Objective
from trainable.records import MetricsRecord, TrialState
from trainable.tracking import WandBLogger

_RUN = "run"
_VALIDATION = "val_predictions.jsonl"
_OBJECTIVE = Objective(records.EVAL_LOSS, "min")


@dataclass(frozen=True)
class SingleResult:
    """What a single run came to.

    Attributes:
        state, reason: how it ended.
        best: the metrics record with the lowest `eval/loss`; empty if it has none.
        test: metrics of the best adapter on the held-out rows, keys under `test/`.
        adapter: the best adapter's folder; `None` if there is none.
        predictions: of held-out rows.
    """

    state: TrialState
    reason: str | None
    best: dict[str, Any]
    test: dict[str, float]
    adapter: Path | None
    predictions: Sequence[Prediction]


def run_single(
    config: TrialConfig,
    output_dir: Path,
    logger: WandBLogger,
    say: Callable[[str], None],
    *,
    resume: bool = False,
) -> SingleResult:
    """Train one configuration to its end.

    Args:
        config: the run's.
        output_dir: made, or taken up with `resume`.
        logger: gets every metric; its run begins after everything that can be wrong was checked.
        say: takes a line for the terminal.
        resume: resume from the folder's checkpoint.

    Raises:
        UserError: the data, the model or the folder has to be corrected first.
    """
    last = output_dir / "checkpoint"
    if last.exists() and not resume:
        raise ExperimentError(
            f"output folder '{output_dir}' holds a run already. Go on with it by --resume, "
            "or choose another --output_dir."
        )
    alone = config.engine.model_copy(update={"slots_per_device": 1})
    engine, _ = build_engine(config.model_copy(update={"engine": alone}), say)
    for line in engine.data.lines():
        say(line)
    if note := limit_note(config.evaluation, engine.data.val.target_lengths):
        say(note)
    checkpoint = load_checkpoint(last) if last.exists() else None
    if checkpoint is not None and checkpoint.config.lora != config.lora:
        raise ExperimentError(
            f"'{last}' holds an adapter with {checkpoint.config.lora!r}; resuming cannot change it. "
            "Give the same lora settings, or choose another --output_dir."
        )
    description = engine.describe(config.model.name).with_adapter(config.lora)
    tenant = engine.join(_RUN, config, checkpoint)
    # Only now: nothing that can be wrong with the folder or the settings leaves a run in W&B.
    _begin_tracking(config, output_dir, logger, goes_on=last.exists())
    logger.describe_model(description)
    logger.use_data(config.data, engine.data.data_hash)
    best = _read_best(output_dir / "best")
    while tenant.state is TrialState.RUNNING:
        record = _train_until_evaluation(engine, tenant, logger)
        logger.log_record(record)
        say(_line(record))
        written = [Prediction(**row) for row in record.get(records.PREDICTIONS, ())]
        record = record.without_bulk()
        save_checkpoint(last, engine.snapshot(_RUN, record))
        is_best = _OBJECTIVE.is_better(_OBJECTIVE.value(record), _OBJECTIVE.value(best))
        if is_best:
            best = record
            save_checkpoint(output_dir / "best", engine.snapshot(_RUN, record))
            write_predictions(output_dir / _VALIDATION, written)
        is_last = tenant.state is not TrialState.RUNNING
        logger.log_checkpoint(last, f"{output_dir.name}-adapter", is_best=is_best, is_last=is_last)
    engine.leave(_RUN)
    result = SingleResult(tenant.state, tenant.reason, best, {}, None, [])
    result = _hold_out(engine, output_dir, logger, result) if best else result
    logger.summarize(_summary(result))
    if result.state is not TrialState.COMPLETED:
        logger.finish(exit_code=1)
    return result


def _begin_tracking(config: TrialConfig, output_dir: Path, logger: WandBLogger, *, goes_on: bool) -> None:
    """Begin the W&B run, or the one that the folder's run has already if it goes on."""
    known = output_dir / "wandb-run-id"
    run_id = known.read_text(encoding="utf-8") if goes_on and known.exists() else None
    logger.init(config.wandb.name or run_name(config), config.model_dump(mode="json"), run_id=run_id)
    if logger.run is not None:
        output_dir.mkdir(parents=True, exist_ok=True)
        known.write_text(logger.run.id, encoding="utf-8")


def run_name(config: TrialConfig) -> str:
    """Return a name that tells the adapter apart, such as `lora-r32-a32-lr5e-5`."""
    mantissa, exponent = f"{config.training.learning_rate:.1e}".split("e")
    return f"lora-r{config.lora.r}-a{config.lora.alpha:g}-lr{float(mantissa):g}e{int(exponent)}"


def _train_until_evaluation(engine: Engine, tenant: Tenant, logger: WandBLogger) -> MetricsRecord:
    every, log_freq = tenant.config.evaluation.eval_every_steps, tenant.config.wandb.log_freq
    target = tenant.step + every - tenant.step % every
    while tenant.state is TrialState.RUNNING and tenant.step < target:
        before = tenant.step
        engine.step([_RUN])
        if tenant.step > before and tenant.step % log_freq == 0 and tenant.step < target:
            logger.log_training_metrics(
                loss=tenant.window.losses[-1],
                learning_rate=tenant.rate,
                epoch=tenant.step * tenant.rows_per_step / tenant.rows,
                step=tenant.step,
                grad_norm=tenant.grad_norm,
            )
    record = MetricsRecord(engine.evaluate([_RUN])[_RUN])
    always, over = tenant.config.evaluation.text_metrics == "always", tenant.state is TrialState.COMPLETED
    if (always and tenant.reason is None) or (over and tenant.config.evaluation.text_metrics == "end"):
        record.update(score_sample(engine, _RUN, engine.data.val).for_record())
    return record


def _hold_out(engine: Engine, output_dir: Path, logger: WandBLogger, result: SingleResult) -> SingleResult:
    """Score the best adapter on the test rows, which it was not chosen by."""
    best = load_checkpoint(output_dir / "best")
    engine.join(_RUN, best.config, best)
    scored = assess(engine, _RUN, engine.data.test or engine.data.val)
    test = {held_out_key(key): value for key, value in scored.metrics.items()}
    if scored.predictions:
        write_predictions(output_dir / "predictions.jsonl", scored.predictions)
        logger.log_predictions(scored.predictions, best.step, "test/predictions")
    logger.log_metrics(test, step=best.step)
    adapter = output_dir / "adapter"
    shutil.rmtree(adapter, ignore_errors=True)
    shutil.copytree(output_dir / "best" / "adapter", adapter)
    rows = _validation_rows(output_dir, best)
    rows |= {held_out_key(key): count for key, count in count_rows(scored).items()}
    metrics = {"best": result.best, "test": test, "n": rows}
    (output_dir / "metrics.json").write_text(json.dumps(metrics, indent=2), encoding="utf-8")
    return replace(result, test=test, adapter=adapter, predictions=scored.predictions)


def _validation_rows(output_dir: Path, best: Checkpoint) -> dict[str, int]:
    """Return the number of validation rows that each metric of the best record rests on."""
    path = output_dir / _VALIDATION
    texts = read_predictions(path) if path.exists() else []
    loss = {key: best.record[key] for key in (records.EVAL_LOSS, records.EVAL_ROWS) if key in best.record}
    return count_rows(Scored(loss | metrics_of(texts, best.config.evaluation), texts))


def _read_best(folder: Path) -> dict[str, Any]:
    try:
        return load_checkpoint(folder).record
    except CheckpointError:
        return {}


def _summary(result: SingleResult) -> dict[str, Any]:
    told: dict[str, Any] = {records.STATE: result.state.value, records.REASON: result.reason}
    if result.best:
        told[f"best/{records.EVAL_LOSS}"] = result.best[records.EVAL_LOSS]
        told["best/step"] = result.best[records.STEP]
    return told


def _line(record: dict[str, Any]) -> str:
    parts = [f"step {record[records.STEP]}/{record[records.MAX_STEPS]}"]
    told = (
        records.TRAIN_LOSS,
        records.EVAL_LOSS,
        records.TRAIN_LEARNING_RATE,
        records.TRAIN_TOKENS_PER_SECOND,
    )
    parts += [f"{key} {record[key]:.4g}" for key in told if key in record]
    return "  ".join([*parts, *([record[records.REASON]] if records.REASON in record else [])])
