"""What a trial computes in a pack is what it computes alone, and what transformers and PEFT compute."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict

from tests.support.engines import (
    FakeData,
    FakeTable,
    FakeTokenizer,
    micro_model,
    random_table,
    row_loss,
    train_with_peft,
    trial_config,
)
from trainable import records
from trainable.config import TrialConfig
from trainable.engine import Engine
from trainable.engine.batching import Batch
from trainable.engine.packed_forward import FusedModel
from trainable.errors import CheckpointError, ConfigError
from trainable.lora.peft_format import import_rows
from trainable.lora.span import AdapterSpan
from trainable.records import TrialState

MakeEngine = Callable[..., Engine]


def adapter_of(engine: Engine, name: str) -> dict[str, torch.Tensor]:
    return engine.snapshot(name, {}).adapter


def peft_model() -> PeftModel:
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(micro_model(), lora)


def train(engine: Engine, name: str, company: tuple[str, ...] = ()) -> list[float]:
    """Train to the end, in the company of others while they have steps left; return each step's loss."""
    tenant = engine.tenant(name)
    while tenant.state is TrialState.RUNNING:
        others = [other for other in company if engine.tenant(other).state is TrialState.RUNNING]
        engine.step([name, *others])
    return list(tenant.window.losses)


def alone(make_engine: MakeEngine, config: TrialConfig, **options: int) -> tuple[list[float], dict]:
    engine = make_engine(**options)
    engine.join("only", config)
    return train(engine, "only"), adapter_of(engine, "only")


configs = st.builds(
    lambda r, alpha, rslora, targets, lr, schedule, size, accumulate, seed, clip, steps: trial_config(
        lora={"r": r, "alpha": alpha, "use_rslora": rslora, "target_modules": targets},
        training={
            "learning_rate": lr,
            "lr_scheduler": schedule,
            "batch_size": size,
            "gradient_accumulation_steps": accumulate,
            "seed": seed,
            "max_grad_norm": clip,
            "max_steps": steps,
        },
    ),
    r=st.integers(1, 20),
    alpha=st.sampled_from([4.0, 16.0, 32.0]),
    rslora=st.booleans(),
    targets=st.sampled_from(["all-linear", ["q_proj", "v_proj"], ["down_proj"]]),
    lr=st.floats(1e-4, 1e-2),
    schedule=st.sampled_from(["linear", "cosine", "constant"]),
    size=st.integers(1, 3),
    accumulate=st.integers(1, 3),
    seed=st.integers(0, 1000),
    clip=st.sampled_from([None, 0.05, 1.0]),
    steps=st.integers(1, 6),
)
few = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@few
@given(mix=st.lists(configs, min_size=1, max_size=4), budget=st.sampled_from([None, 64]))
def test_each_trial_of_a_random_mix_equals_transformers_with_peft(
    make_engine: MakeEngine, data: FakeData, mix: list[TrialConfig], budget: int | None
) -> None:
    engine = make_engine(max_tokens_per_pass=budget)
    names = [f"t{number}" for number in range(len(mix))]
    initial = {}
    for name, config in zip(names, mix, strict=True):
        engine.join(name, config)
        initial[name] = adapter_of(engine, name)
    while running := [n for n in names if engine.tenant(n).state is TrialState.RUNNING]:
        engine.step(running)
    losses = {name: list(engine.tenant(name).window.losses) for name in names}
    evaluated = engine.evaluate(names)
    for name, config in zip(names, mix, strict=True):
        expected = train_with_peft(config, initial[name], data)
        assert losses[name] == pytest.approx(expected.losses, rel=1e-4)
        assert evaluated[name][records.EVAL_LOSS] == pytest.approx(expected.eval_loss, rel=1e-4)
        assert evaluated[name][records.TRAIN_GRAD_NORM] == pytest.approx(expected.norms[-1], rel=1e-3)


def test_one_step_gradients_equal_the_reference(make_engine: MakeEngine, data: FakeData) -> None:
    """AdamW's first moment after one step is a tenth of the gradient, so it shows the gradient itself."""
    config = trial_config(training={"max_steps": 1, "warmup_ratio": 0, "max_grad_norm": None})
    engine = make_engine()
    engine.join("t", config)
    initial = {key: value + 0.05 for key, value in adapter_of(engine, "t").items()}
    adapter = engine.tenant("t").adapter
    adapter.parameters.copy_(import_rows(adapter, initial))
    engine.step(["t"])
    found = engine.snapshot("t", {}).exp_avg
    model = micro_model()
    peft = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    set_peft_model_state_dict(peft, initial)
    rows = engine.tenant("t").order.slice(0, 2)
    count = sum((data.train.labels(row)[1:] != -100).sum() for row in rows)
    sum(row_loss(peft, data.train, row) / count for row in rows).backward()
    gradients = {
        key.replace(".default.", "."): parameter.grad
        for key, parameter in peft.named_parameters()
        if parameter.requires_grad
    }
    assert set(gradients) == set(found)
    for key, gradient in gradients.items():
        assert (found[key] * 10 - gradient).norm() <= 1e-5 * gradient.norm()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_packed_equals_alone(make_engine: MakeEngine, dropout: float) -> None:
    mine = trial_config(lora={"r": 5, "dropout": dropout}, training={"max_steps": 20})
    expected, adapter = alone(make_engine, mine)
    engine = make_engine()
    engine.join("a", trial_config(lora={"r": 16}, training={"batch_size": 3, "seed": 1}))
    engine.join("mine", mine)
    engine.join("b", trial_config(lora={"r": 4, "dropout": 0.5}, training={"seed": 2, "max_steps": 3}))
    assert train(engine, "mine", ("a", "b")) == pytest.approx(expected, rel=1e-4)
    for key, value in adapter_of(engine, "mine").items():
        torch.testing.assert_close(value, adapter[key], rtol=1e-3, atol=1e-5)


def test_dropout_changes_what_is_computed_and_is_off_in_evaluation(make_engine: MakeEngine) -> None:
    without, _ = alone(make_engine, trial_config())
    with_dropout, _ = alone(make_engine, trial_config(lora={"dropout": 0.5}))
    assert without[-1] != pytest.approx(with_dropout[-1], rel=1e-4)
    engine = make_engine()
    engine.join("t", trial_config(lora={"dropout": 0.5}))
    engine.step(["t"])
    first, second = (engine.evaluate(["t"])["t"][records.EVAL_LOSS] for _ in range(2))
    assert first == second


@pytest.mark.parametrize("content", ["another rate", "a rate of 1e3", "nan"])
def test_a_neighbours_content_changes_nothing_bitwise(make_engine: MakeEngine, content: str) -> None:
    """At a fixed layout: rows of one length, and a neighbour whose batch is never complete, or is sound."""
    rows = tuple((tuple(range(3 + n, 15 + n)), 4) for n in range(9))
    even = FakeData(FakeTable(rows), FakeTable(rows))
    results = []
    for neighbour in ("a rate", content):
        engine = make_engine(data=even)
        rate = {"a rate": 1e-3, "another rate": 1e-2, "a rate of 1e3": 1e3, "nan": 1e-3}[neighbour]
        accumulate = 99 if neighbour == "nan" else 1
        engine.join(
            "bad",
            trial_config(
                training={
                    "learning_rate": rate,
                    "seed": 3,
                    "max_grad_norm": None,
                    "max_steps": 99,
                    "gradient_accumulation_steps": accumulate,
                }
            ),
        )
        if neighbour == "nan":
            engine.tenant("bad").adapter.parameters.fill_(math.nan)
        engine.join("good", trial_config(training={"max_steps": 12}))
        good = engine.tenant("good")
        together = 0
        while good.state is TrialState.RUNNING and engine.tenant("bad").state is TrialState.RUNNING:
            engine.step(["bad", "good"])
            together += 1
        if neighbour == "nan":
            assert math.isnan(engine.tenant("bad").loss)
        results.append((together, list(good.window.losses), adapter_of(engine, "good")))
    (_, losses, adapter), (together, other_losses, other_adapter) = results
    assert losses[:together] == other_losses
    # A rate of 1e3 drives the neighbour out of the pack before the good one is through.
    if together < 12:
        assert content == "a rate of 1e3"
        return
    assert all(torch.equal(adapter[key], other_adapter[key]) for key in adapter)


def test_a_diverged_trial_says_so_and_commits_nothing(make_engine: MakeEngine) -> None:
    engine = make_engine()
    tenant = engine.join("t", trial_config())
    tenant.adapter.parameters.fill_(math.nan)
    before = tenant.adapter.exp_avg.clone()
    engine.step(["t"])
    assert tenant.state is TrialState.DIVERGED
    assert "nan" in tenant.reason
    assert "step 1" in tenant.reason
    assert tenant.step == 0
    assert torch.equal(tenant.adapter.exp_avg, before)
    record = engine.evaluate(["t"])["t"]
    assert record[records.STATE] == "diverged"
    assert records.EVAL_LOSS not in record


def test_a_trial_that_left_leaves_nothing_behind(make_engine: MakeEngine) -> None:
    config = trial_config(lora={"r": 3})
    expected, adapter = alone(make_engine, config)
    engine = make_engine()
    engine.join("first", trial_config(lora={"r": 8}, training={"seed": 9}))
    train(engine, "first")
    engine.leave("first")
    engine.leave("first")
    engine.join("second", config)
    assert train(engine, "second") == expected
    assert all(torch.equal(value, adapter[key]) for key, value in adapter_of(engine, "second").items())


def test_lines_beyond_a_layers_own_rank_stay_zero(make_engine: MakeEngine) -> None:
    engine = make_engine()
    adapter = engine.join("t", trial_config(lora={"r": 3, "rank_pattern": {"q_proj": 5}})).adapter
    train(engine, "t")
    a, b = adapter.matrices(adapter.parameters)
    for name in adapter.ranks:
        own = 5 if name.endswith("q_proj") else 3
        assert adapter.layout.b(b, name)[:own].abs().sum(1).all()
        assert not adapter.layout.a(a, name)[own:].any()
        assert not adapter.layout.b(b, name)[own:].any()


def test_leaving_in_the_middle_changes_nobody(make_engine: MakeEngine) -> None:
    mine = trial_config(training={"gradient_accumulation_steps": 2})
    expected, _ = alone(make_engine, mine)
    engine = make_engine()
    engine.join("leaver", trial_config(training={"seed": 1, "gradient_accumulation_steps": 3}))
    engine.join("mine", mine)
    engine.step(["leaver", "mine"])
    engine.leave("leaver")
    engine.join("late", trial_config(training={"seed": 2}))
    assert train(engine, "mine", ("late",)) == pytest.approx(expected, rel=1e-4)
    assert not engine.tenant("late").micro_step


def test_a_checkpoint_taken_in_a_pack_goes_on_alone_and_in_a_pack_again(make_engine: MakeEngine) -> None:
    mine = trial_config(lora={"dropout": 0.2}, training={"max_steps": 12})
    expected, adapter = alone(make_engine, mine)
    losses: list[float] = []
    checkpoint = None
    for company, until in ((7, 4), (0, 8), (2, 12)):
        engine = make_engine()
        tenant = engine.join("mine", mine, checkpoint)
        for number in range(company):
            engine.join(f"other{number}", trial_config(lora={"r": 2 + number}, training={"seed": number}))
        while tenant.step < until:
            engine.step([n for n in ("mine", *(f"other{i}" for i in range(company))) if _runs(engine, n)])
        losses = tenant.window.losses
        checkpoint = engine.snapshot("mine", {})
    assert losses == pytest.approx(expected, rel=1e-4)
    for key, value in checkpoint.adapter.items():
        torch.testing.assert_close(value, adapter[key], rtol=1e-3, atol=1e-5)


def _runs(engine: Engine, name: str) -> bool:
    return engine.tenant(name).state is TrialState.RUNNING


def test_resumed_alone_equals_uninterrupted_bitwise(make_engine: MakeEngine) -> None:
    config = trial_config(lora={"dropout": 0.2}, training={"max_steps": 10})
    expected, adapter = alone(make_engine, config)
    engine = make_engine()
    engine.join("t", config)
    for _ in range(5):
        engine.step(["t"])
    checkpoint = engine.snapshot("t", {})
    resumed = make_engine()
    resumed.join("t", config, checkpoint)
    assert train(resumed, "t") == expected
    assert all(torch.equal(value, adapter[key]) for key, value in adapter_of(resumed, "t").items())


def test_a_checkpoint_of_other_data_is_refused(make_engine: MakeEngine, data: FakeData) -> None:
    engine = make_engine()
    engine.join("t", trial_config())
    checkpoint = engine.snapshot("t", {})
    other = make_engine(data=FakeData(data.train, data.val, "1" * 64))
    with pytest.raises(CheckpointError, match="trained on other data"):
        other.join("t", trial_config(), checkpoint)
    other.join("t", trial_config())


def test_out_of_memory_halves_the_budget_and_loses_nothing(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = trial_config(training={"batch_size": 4})
    expected, _ = alone(make_engine, config)
    engine = make_engine()
    genuine = FusedModel.losses

    def small_device(self: FusedModel, batch: Batch, spans: list[AdapterSpan]) -> torch.Tensor:
        if len(batch.input_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return genuine(self, batch, spans)

    monkeypatch.setattr(FusedModel, "losses", small_device)
    engine.join("a", config)
    engine.join("b", trial_config(training={"seed": 1}))
    before = engine.passes.max_tokens
    assert train(engine, "a", ("b",)) == pytest.approx(expected, rel=1e-4)
    assert engine.passes.max_tokens < before


def test_a_row_that_does_not_fit_ends_only_its_trial(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    genuine = FusedModel.losses

    def no_room_for_big(self: FusedModel, batch: Batch, spans: list[AdapterSpan]) -> torch.Tensor:
        if any(engine.tenant("big").adapter in span.adapters for span in spans):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return genuine(self, batch, spans)

    monkeypatch.setattr(FusedModel, "losses", no_room_for_big)
    engine.join("big", trial_config())
    engine.join("small", trial_config(training={"seed": 1}))
    engine.step(["big", "small"])
    assert engine.tenant("big").state is TrialState.OOM
    assert "does not fit" in engine.tenant("big").reason
    assert engine.tenant("small").step == 1


def test_generation_in_a_pack_equals_plain_transformers_with_peft(
    make_engine: MakeEngine, data: FakeData
) -> None:
    engine = make_engine()
    for name, seed in (("a", 1), ("b", 2)):
        engine.join(name, trial_config(training={"seed": seed, "learning_rate": 0.05}))
        train(engine, name)
    texts = engine.generate({"a": [0, 1, 2], "b": [3, 1]}, data.val)
    assert [len(texts["a"]), len(texts["b"])] == [3, 2]
    for name, rows in (("a", [0, 1, 2]), ("b", [3, 1])):
        peft = peft_model()
        set_peft_model_state_dict(peft, adapter_of(engine, name))
        for row, text in zip(rows, texts[name], strict=True):
            prompt = torch.from_numpy(data.val.prompt_ids(row))[None]
            written = peft.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5, do_sample=False
            )
            expected = FakeTokenizer().decode(written[0, prompt.shape[1] :].tolist(), True)
            assert text.text == expected
            assert text.row == row


def test_records_tell_the_trials_progress(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.join("a", trial_config(training={"max_steps": 3}))
    engine.join("b", trial_config(training={"max_steps": 3, "seed": 1}))
    engine.step(["a", "b"])
    engine.step(["a", "b"])
    record = engine.evaluate(["a"])["a"]
    assert record[records.STEP] == 2
    assert record[records.MAX_STEPS] == 3
    assert record[records.STATE] == "running"
    assert record[records.FUSED_WIDTH] == 2
    assert record[records.TRAIN_EPOCH] == pytest.approx(2 * 2 / 13)
    assert record[records.TRAIN_TOKENS_PER_SECOND] > 0
    engine.step(["a"])
    assert engine.evaluate(["a"])["a"][records.STATE] == "completed"
    assert engine.evaluate(["a"])["a"].get(records.TRAIN_LOSS) is None


def test_a_target_that_the_model_lacks_is_told_with_those_it_has(make_engine: MakeEngine) -> None:
    engine = make_engine()
    with pytest.raises(ConfigError, match=r"'q_prj' is no linear layer.*Did you mean 'q_proj'.*down_proj"):
        engine.join("t", trial_config(lora={"target_modules": ["q_prj"]}))


def test_a_name_is_taken_once(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.join("t", trial_config())
    with pytest.raises(ConfigError, match="'t' is in this engine already"):
        engine.join("t", trial_config())


def test_epochs_become_steps(make_engine: MakeEngine) -> None:
    engine = make_engine(data=FakeData(random_table(10, 0), random_table(2, 1)))
    config = trial_config(training={"max_steps": None, "epochs": 1.5, "batch_size": 2})
    assert engine.join("t", config).max_steps == 8
