"""Tiny random models of many families, built from transformers' own configurations.

A family is a `model_type` of transformers and what differs from the defaults below. Widths are as small as a
family allows; windows and chunks are shorter than the rows, so that they matter.
"""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 61
LONGEST = 20
"""Tokens of the longest row that the models are tried on."""

_PLAIN = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
}
_GROUPED = _PLAIN | {"num_key_value_heads": 2}
_HEADED = _GROUPED | {"head_dim": 8}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_OLD = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_BART = {
    "d_model": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 64,
    "is_decoder": True,
    "is_encoder_decoder": False,
}
_MAMBA2 = {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8, "state_size": 8}
_HYBRID = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
_DELTA = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"],
}
_LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
_ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 24,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        kind: its `model_type`.
        changes: to the configuration's defaults.
        quick: whether the default test run includes it; the others are marked slow.
        refused: what the engine's message says, where it refuses the model.
    """

    kind: str
    changes: dict[str, Any] = field(default_factory=dict)
    quick: bool = False
    refused: str | None = None

    def build(self) -> PreTrainedModel:
        """Return the model: frozen, in evaluation mode, the same weights every time."""
        config = AutoConfig.for_model(
            self.kind,
            **{"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
            **copy.deepcopy(self.changes),
        )
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                # Larger than by default, so that every part has a say in the logits.
                if parameter.dim() >= 2 and "A_log" not in name:
                    parameter.normal_(0, 0.15)
        return model.eval().requires_grad_(False)


_SEES_LATER = "tokens see the tokens that follow"

FAMILIES: dict[str, Family] = {
    "afmoe": Family("afmoe", _HEADED | _EXPERTS | {"num_dense_layers": 1, "sliding_window": 8}),
    "apertus": Family("apertus", _GROUPED),
    "arcee": Family("arcee", _GROUPED),
    "bamba": Family("bamba", _GROUPED | _HYBRID | {"attn_layer_indices": [1]}),
    "bart": Family("bart", _BART),
    "bert": Family("bert", _PLAIN | {"is_decoder": True}, quick=True),
    "bert (encoder)": Family("bert", _PLAIN, quick=True, refused=_SEES_LATER),
    "biogpt": Family("biogpt", _PLAIN),
    "bitnet": Family("bitnet", _GROUPED),
    "bloom": Family("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, quick=True),
    "camembert": Family("camembert", _PLAIN | {"is_decoder": True}),
    "codegen": Family("codegen", _OLD | {"rotary_dim": 4}),
    "cohere": Family("cohere", _GROUPED | {"logit_scale": 0.25}),
    "cohere2": Family("cohere2", _HEADED | {"logit_scale": 0.25, "sliding_window": 8}),
    "ctrl": Family("ctrl", _OLD | {"dff": 40}, quick=True),
    "cwm": Family("cwm", _HEADED | {"sliding_window": 8}),
    "deepseek_v2": Family(
        "deepseek_v2", _PLAIN | _LATENT | _ROUTED | {"topk_method": "greedy", "head_dim": 8}
    ),
    "deepseek_v3": Family("deepseek_v3", _PLAIN | _LATENT | _ROUTED, quick=True),
    "diffllama": Family("diffllama", _GROUPED),
    "deepseek_v4": Family(
        "deepseek_v4",
        _PLAIN
        | _LATENT
        | _ROUTED
        | {
            "head_dim": 8,
            "index_head_dim": 8,
            "index_n_heads": 2,
            "index_topk": 32,
            "o_lora_rank": 8,
            "o_groups": 2,
        },
    ),
    "doge": Family("doge", _GROUPED),
    "dots1": Family("dots1", _HEADED | _ROUTED | {"sliding_window": None}),
    "electra": Family("electra", _PLAIN | {"is_decoder": True, "embedding_size": 32}),
    "ernie4_5": Family("ernie4_5", _HEADED),
    "ernie4_5_moe": Family(
        "ernie4_5_moe",
        _GROUPED
        | {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 24, "moe_num_shared_experts": 1},
    ),
    "exaone4": Family("exaone4", _GROUPED | {"sliding_window": 8, "sliding_window_pattern": 2}),
    "falcon": Family(
        "falcon",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": False},
    ),
    "falcon (alibi)": Family(
        "falcon",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "alibi": True,
            "multi_query": False,
            "parallel_attn": False,
        },
    ),
    "falcon_h1": Family("falcon_h1", _HEADED | _HYBRID | {"mamba_d_ssm": 64, "mamba_d_conv": 4}),
    "falcon_mamba": Family("falcon_mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "flex_olmo": Family("flex_olmo", _GROUPED | {"num_experts": 4, "num_experts_per_tok": 2}),
    "gemma": Family("gemma", _HEADED),
    "gemma2": Family("gemma2", _HEADED | {"sliding_window": 8, "query_pre_attn_scalar": 8}, quick=True),
    "gemma3 (with images)": Family(
        "gemma3",
        {
            "text_config": _HEADED | {"vocab_size": VOCABULARY, "sliding_window": 8},
            "vision_config": {
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 16,
                "image_size": 28,
                "patch_size": 14,
            },
            "image_token_index": 59,
            "boi_token_index": 58,
            "eoi_token_index": 57,
        },
    ),
    "gemma3_text": Family(
        "gemma3_text",
        _HEADED
        | {
            "sliding_window": 8,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "gemma3n_text": Family(
        "gemma3n_text",
        _HEADED
        | {
            "sliding_window": 8,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
            "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "full_attention"],
            "intermediate_size": [40, 40],
            "activation_sparsity_pattern": [0.0, 0.0],
        },
    ),
    "glm": Family("glm", _HEADED),
    "glm4": Family("glm4", _HEADED),
    "glm4_moe": Family("glm4_moe", _HEADED | _ROUTED),
    "glm_moe_dsa": Family(
        "glm_moe_dsa",
        _PLAIN
        | _LATENT
        | _ROUTED
        | {"head_dim": 8, "index_head_dim": 8, "index_n_heads": 2, "index_topk": 32},
    ),
    "glm_moe_dsa (selecting tokens)": Family(
        "glm_moe_dsa",
        _PLAIN
        | _LATENT
        | _ROUTED
        | {"head_dim": 8, "index_head_dim": 8, "index_n_heads": 2, "index_topk": 8},
        refused="depends on the rest of the batch beyond 8",
    ),
    "gpt2": Family("gpt2", _OLD, quick=True),
    "gpt_bigcode": Family("gpt_bigcode", _OLD),
    "gpt_neo": Family(
        "gpt_neo",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 8,
            "max_position_embeddings": 64,
        },
    ),
    "gpt_neox": Family("gpt_neox", _GROUPED),
    "gpt_neox_japanese": Family("gpt_neox_japanese", _PLAIN),
    "gpt_oss": Family("gpt_oss", _HEADED | _LOCAL_EXPERTS | {"sliding_window": 8}, quick=True),
    "gptj": Family("gptj", _OLD | {"rotary_dim": 4}),
    "granite": Family("granite", _GROUPED | {"logits_scaling": 4.0, "residual_multiplier": 0.5}),
    "granitemoe": Family("granitemoe", _GROUPED | _LOCAL_EXPERTS),
    "granitemoehybrid": Family(
        "granitemoehybrid",
        _GROUPED
        | _LOCAL_EXPERTS
        | _HYBRID
        | {"shared_intermediate_size": 24, "layer_types": ["mamba", "attention"]},
    ),
    "granitemoeshared": Family(
        "granitemoeshared", _GROUPED | _LOCAL_EXPERTS | {"shared_intermediate_size": 24}
    ),
    "helium": Family("helium", _HEADED),
    "hunyuan_v1_dense": Family("hunyuan_v1_dense", _HEADED),
    "hunyuan_v1_moe": Family("hunyuan_v1_moe", _HEADED | {"num_experts": 4, "moe_topk": 2}),
    "jamba": Family(
        "jamba",
        _GROUPED
        | {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
        quick=True,
    ),
    "jetmoe": Family("jetmoe", _PLAIN | {"num_key_value_heads": 2, "kv_channels": 8, "num_local_experts": 4}),
    "laguna": Family("laguna", _HEADED | _EXPERTS | _ROUTED),
    "lfm2": Family("lfm2", _GROUPED | {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8}),
    "llama": Family("llama", _GROUPED, quick=True),
    "llama (dynamic rope)": Family(
        "llama",
        _GROUPED | {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
    ),
    "llama (short dynamic rope)": Family(
        "llama",
        _GROUPED | {"max_position_embeddings": 16, "rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
        quick=True,
        refused="depends on the rest of the batch beyond 16",
    ),
    "llama4_text": Family(
        "llama4_text",
        _HEADED
        | _LOCAL_EXPERTS
        | {"intermediate_size_mlp": 40, "attention_chunk_size": 8, "interleave_moe_layer_step": 2},
        quick=True,
    ),
    "longcat_flash": Family(
        "longcat_flash",
        _PLAIN
        | _LATENT
        | {
            "num_layers": 1,
            "ffn_hidden_size": 40,
            "expert_ffn_hidden_size": 24,
            "n_routed_experts": 4,
            "moe_topk": 2,
            "zero_expert_num": 2,
            "head_dim": 8,
        },
    ),
    "mamba": Family("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}, quick=True),
    "mamba2": Family("mamba2", {"hidden_size": 32, "num_hidden_layers": 2} | _MAMBA2, quick=True),
    "minimax": Family(
        "minimax",
        _HEADED | _LOCAL_EXPERTS | {"block_size": 8, "layer_types": ["linear_attention", "full_attention"]},
    ),
    "ministral": Family("ministral", _HEADED | {"sliding_window": 8}),
    "mistral": Family("mistral", _GROUPED | {"sliding_window": 8}),
    "mixtral": Family("mixtral", _GROUPED | _LOCAL_EXPERTS, quick=True),
    "modernbert-decoder": Family(
        "modernbert-decoder", _PLAIN | {"local_attention": 8, "global_attn_every_n_layers": 2}
    ),
    "mpt": Family(
        "mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64, "expansion_ratio": 2}
    ),
    "nanochat": Family("nanochat", _GROUPED),
    "nemotron": Family("nemotron", _GROUPED),
    "nemotron_h": Family(
        "nemotron_h",
        _HEADED
        | {
            "layers_block_type": ["mamba", "attention"],
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "ssm_state_size": 8,
            "n_groups": 1,
            "chunk_size": 8,
        },
    ),
    "olmo": Family("olmo", _GROUPED),
    "olmo2": Family("olmo2", _GROUPED),
    "olmo3": Family("olmo3", _GROUPED | {"sliding_window": 8}),
    "olmoe": Family("olmoe", _GROUPED | {"num_experts": 4, "num_experts_per_tok": 2}),
    "openai-gpt": Family("openai-gpt", _OLD),
    "opt": Family(
        "opt",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 40,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 32,
        },
        quick=True,
    ),
    "persimmon": Family("persimmon", _PLAIN),
    "phi": Family("phi", _PLAIN),
    "phi3": Family("phi3", _GROUPED | {"sliding_window": None}),
    "phi3 (longrope)": Family(
        "phi3",
        _GROUPED
        | {
            "sliding_window": None,
            "original_max_position_embeddings": 32,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0, 1.1, 1.2, 1.3],
                "long_factor": [2.0, 4.0, 8.0, 16.0],
            },
        },
        quick=True,
    ),
    "phimoe": Family("phimoe", _GROUPED | _LOCAL_EXPERTS | {"sliding_window": None}),
    "qwen2": Family(
        "qwen2", _GROUPED | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    ),
    "qwen2_moe": Family(
        "qwen2_moe", _GROUPED | _EXPERTS | {"shared_expert_intermediate_size": 24}, quick=True
    ),
    "qwen3": Family("qwen3", _HEADED | {"tie_word_embeddings": True}),
    "qwen3_5_moe_text": Family(
        "qwen3_5_moe_text", _HEADED | _EXPERTS | _DELTA | {"shared_expert_intermediate_size": 24}
    ),
    "qwen3_5_text": Family("qwen3_5_text", _HEADED | _DELTA),
    "qwen3_moe": Family("qwen3_moe", _HEADED | _EXPERTS),
    "qwen3_next": Family(
        "qwen3_next", _HEADED | _EXPERTS | _DELTA | {"shared_expert_intermediate_size": 24}, quick=True
    ),
    "recurrent_gemma": Family(
        "recurrent_gemma",
        _HEADED
        | {
            "num_hidden_layers": 3,
            "lru_width": 32,
            "attention_window_size": 8,
            "block_types": ["recurrent", "attention"],
        },
    ),
    "rembert": Family("rembert", _PLAIN | {"is_decoder": True, "output_embedding_size": 32}),
    "roberta": Family("roberta", _PLAIN | {"is_decoder": True}),
    "roformer": Family("roformer", _PLAIN | {"is_decoder": True}),
    "rwkv": Family(
        "rwkv",
        {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32, "context_length": 64},
        quick=True,
    ),
    "seed_oss": Family("seed_oss", _HEADED),
    "smollm3": Family("smollm3", _GROUPED | {"no_rope_layers": [1, 0]}),
    "stablelm": Family("stablelm", _GROUPED),
    "starcoder2": Family("starcoder2", _GROUPED | {"sliding_window": None}),
    "vaultgemma": Family("vaultgemma", _HEADED | {"sliding_window": 8, "query_pre_attn_scalar": 8}),
    "xglm": Family(
        "xglm",
        {
            "d_model": 32,
            "num_layers": 2,
            "attention_heads": 4,
            "ffn_dim": 40,
            "max_position_embeddings": 64,
        },
    ),
    "xlm": Family(
        "xlm", {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "causal": True, "max_position_embeddings": 64}
    ),
    "xlm-roberta": Family("xlm-roberta", _PLAIN | {"is_decoder": True}),
    "xlnet": Family("xlnet", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 40}, refused=_SEES_LATER),
    "zamba2": Family(
        "zamba2",
        _PLAIN
        | {
            "num_hidden_layers": 3,
            "num_key_value_heads": 4,
            "mamba_d_state": 8,
            "n_mamba_heads": 8,
            "mamba_headdim": 8,
            "mamba_ngroups": 1,
            "chunk_size": 8,
            "layers_block_type": ["mamba", "hybrid", "hybrid"],
            "num_mem_blocks": 1,
            "adapter_rank": 4,
            "use_mem_rope": False,
        },
    ),
}
