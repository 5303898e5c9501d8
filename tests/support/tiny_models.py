"""Tiny models of transformers with random weights: two layers each, and every trap of theirs.

Windows are shorter than prompts, groups are no powers of two, values are narrower than keys, caps
and sinks are large enough to matter.
"""

from typing import Any

import torch
import transformers

_SHARED: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16,
    "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0,
    "initializer_range": 0.3,
}  # fmt: skip

_MIXED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "mistral": ("MistralConfig", {"sliding_window": 8}),
    "gemma2": ("Gemma2Config", {
        **_MIXED, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 24,
    }),
    "gemma3": ("Gemma3TextConfig", {**_MIXED, "query_pre_attn_scalar": 24}),
    "gpt-oss": ("GptOssConfig", {
        **_MIXED, "num_local_experts": 4, "num_experts_per_tok": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }),
    "deepseek-v3": ("DeepseekV3Config", {
        "num_key_value_heads": 6, "moe_intermediate_size": 32, "n_routed_experts": 4,
        "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
        "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8,
        "v_head_dim": 16, "head_dim": 8,
    }),
    "bert": ("BertConfig", {}),
}  # fmt: skip

DECODERS = [name for name in CONFIGS if name != "bert"]


def model(name: str, implementation: str, dtype: torch.dtype = torch.float32) -> Any:
    """A model of CONFIGS, the same at every call, for inference."""
    kind, own = CONFIGS[name]
    sizes = {**_SHARED, **own}
    if name == "bert":
        for unknown in ("head_dim", "num_key_value_heads"):
            del sizes[unknown]
    config = getattr(transformers, kind)(**sizes)
    head = transformers.AutoModelForMaskedLM if name == "bert" else (
        transformers.AutoModelForCausalLM
    )  # fmt: skip
    torch.manual_seed(7)
    config._experts_implementation = "eager"  # the grouped products know no fp64
    made = head.from_config(config, attn_implementation=implementation, dtype=torch.float32).eval()
    draw = torch.Generator().manual_seed(8)
    for parameter_name, parameter in made.named_parameters():
        if parameter_name.endswith("sinks"):
            parameter.data.normal_(0.0, 2.0, generator=draw)
    return made.to(dtype)
