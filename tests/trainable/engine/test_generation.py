"""Texts end where they should, by options of our own, whatever a model's configuration says."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, RwkvConfig, RwkvForCausalLM

from tests.support.engines import (
    FakeData,
    FakeTokenizer,
    micro_model,
    random_table,
    trial_config,
)
from trainable.engine import Engine
from trainable.engine.packed_forward import FusedModel
from trainable.model import BaseModel

PROMPT = np.array([7, 21, 40, 5, 33])


def fused(configured: GenerationConfig, eos: int | None = None) -> FusedModel:
    model, tokenizer = micro_model(), FakeTokenizer()
    model.generation_config = configured
    tokenizer.eos_token_id = eos
    return FusedModel(BaseModel(model, tokenizer, "micro"))


def continue_freely(new: int) -> list[int]:
    """Take the likeliest token again and again, without any of generate()'s options."""
    model, ids = micro_model(), torch.from_numpy(PROMPT)[None]
    for _ in range(new):
        ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    return ids[0, len(PROMPT) :].tolist()


def test_options_of_the_model_do_not_leak_in() -> None:
    configured = GenerationConfig(
        repetition_penalty=5.0,
        no_repeat_ngram_size=1,
        num_beams=3,
        min_new_tokens=2,
        forced_eos_token_id=2,
        suppress_tokens=list(range(20, 60)),
        do_sample=True,
        temperature=5.0,
    )
    expected = continue_freely(12)
    assert len(set(expected)) < 12, "the prompt should lead to repetition, or the penalties show nothing"
    assert fused(configured).generate([PROMPT], [], 12) == [expected]


@pytest.mark.parametrize("form", ["one", "list"])
def test_texts_end_at_the_tokenizers_end_and_at_the_models(form: str) -> None:
    free = continue_freely(12)
    places = [place for place, token in enumerate(free) if token not in free[:place]]
    early, late = places[1], places[2]
    ends = free[late] if form == "one" else [free[late], 60]
    assert fused(GenerationConfig(eos_token_id=ends)).generate([PROMPT], [], 12) == [free[:late]]
    both = fused(GenerationConfig(eos_token_id=ends), eos=free[early])
    assert both.generate([PROMPT], [], 12) == [free[:early]]
    assert fused(GenerationConfig(), eos=free[early]).generate([PROMPT], [], 12) == [free[:early]]


def test_a_text_that_ended_gets_nothing_while_others_go_on() -> None:
    free = continue_freely(4)
    other = np.array([11, 12, 13, 14, 15, 16])
    model = fused(GenerationConfig(eos_token_id=free[0]))
    found = model.generate([PROMPT, other], [], 6)
    assert found[0] == []
    assert found[1] == model.generate([other], [], 6)[0] != []


def test_prompts_are_continued_apart_where_batches_change_them() -> None:
    """RWKV in transformers gives other texts for two prompts than for one."""
    torch.manual_seed(0)
    config = RwkvConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32, context_length=64
    )
    model = RwkvForCausalLM(config).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.3)
    table = random_table(4, seed=2)
    engine = Engine(BaseModel(model, FakeTokenizer(), "rwkv"), FakeData(table, table))
    assert engine.prompts_together == "none"
    for name, seed in (("a", 1), ("b", 2)):
        engine.join(name, trial_config(training={"seed": seed}))
    together = engine.generate({"a": [0, 1, 2], "b": [2, 0]}, table)
    assert together["a"] == [engine.generate({"a": [row]}, table)["a"][0] for row in (0, 1, 2)]
    # B is zero, so both adapters leave the base model as it is.
    assert together["b"] == [together["a"][2], together["a"][0]]


def test_a_model_that_pads_well_takes_all_prompts_at_once(
    make_engine: Callable[..., Engine], data: FakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    assert engine.prompts_together == "any"
    engine.join("t", trial_config(evaluation={"batch_size": 3}))
    engine.passes._workers = 1
    batches = []
    genuine = FusedModel.generate

    def counted(self: FusedModel, prompts: list[np.ndarray], *rest: object) -> list[list[int]]:
        batches.append(len(prompts))
        return genuine(self, prompts, *rest)

    monkeypatch.setattr(FusedModel, "generate", counted)
    assert len({len(data.val.prompt_ids(row)) for row in range(3)}) > 1
    engine.generate({"t": [0, 1, 2]}, data.val)
    assert batches == [3]
