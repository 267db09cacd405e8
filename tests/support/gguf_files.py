"""A Llama model and its byte-level BPE tokenizer, written as llama.cpp's converter writes a GGUF file."""

import json
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFWriter, TokenType
from transformers import AutoModelForCausalLM

_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(folder: Path, file: Path) -> Path:
    """Write the Llama model of a folder, with tied embeddings, as a GGUF file in 32-bit floats."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    config = model.config
    writer = GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, folder)
    weights = model.state_dict()
    _add(writer, "token_embd", weights["model.embed_tokens.weight"])
    _add(writer, "output_norm", weights["model.norm.weight"])
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for block in range(config.num_hidden_layers):
        for ours, theirs in _BLOCK.items():
            weight = weights[f"model.layers.{block}.{ours}.weight"]
            if theirs in heads:
                # llama.cpp rotates neighboring values, transformers those half a head apart.
                weight = (
                    weight.view(heads[theirs], 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
                )
            _add(writer, f"blk.{block}.{theirs}", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_tokenizer(writer: GGUFWriter, folder: Path) -> None:
    written = json.loads((folder / "tokenizer.json").read_text())
    tokens = sorted(written["model"]["vocab"], key=written["model"]["vocab"].__getitem__)
    special = [token["content"] for token in written["added_tokens"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in written["model"]["merges"]])
    writer.add_pad_token_id(tokens.index("<pad>"))
    writer.add_bos_token_id(tokens.index("<s>"))
    writer.add_eos_token_id(tokens.index("</s>"))


def _add(writer: GGUFWriter, name: str, weight: torch.Tensor) -> None:
    writer.add_tensor(f"{name}.weight", np.ascontiguousarray(weight.float().numpy()))
