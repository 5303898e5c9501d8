"""Presets and Hugging Face configurations."""

import json
from pathlib import Path
from typing import Any

import pytest

from autoprec.errors import InputError
from autoprec.geometry import load, presets
from autoprec.model_config import from_config
from autoprec.model_layers import Geometry, Layers
from autoprec.sizes import Sizes
from autoprec.types import Mask
from autoprec.workloads import of_model

KNOWN = {name: found for name, found in presets().items() if found.layers}


@pytest.mark.parametrize("name", KNOWN)
def test_every_preset_has_a_source_and_makes_workloads(name: str) -> None:
    geometry = load(name.upper())
    assert geometry.name == name
    assert geometry.source
    assert all(layers.count for layers in geometry.layers)
    found = of_model(Sizes(), geometry, kind="cuda")
    for layers in geometry.layers:
        its = [w for w in found if (w.q_heads, w.head_dim) == (layers.q_heads, layers.head_dim)]
        assert its
    for workload in found:
        assert geometry.context is None or workload.kv_len <= geometry.context


def test_the_presets_are_those_promised() -> None:
    promised = (
        "autoglm-phone-9b kimi-k2-thinking glm-4.6v hunyuan-ocr glm-asr-nano-2512 glm-tts "
        "spark-formalizer-x1-7b llama-3.1-8b qwen3-8b gemma-3-4b mistral-7b gpt-oss-20b "
        "deepseek-v3 bert-base esm-2-650m"
    )
    assert set(promised.split()) <= set(presets())


def test_a_preset_that_is_not_known_says_what_to_give() -> None:
    with pytest.raises(InputError) as caught:
        load("spark-formalizer-x1-7b")
    assert caught.value.sentence.startswith("spark-formalizer-x1-7b: heads, head dim, layers and")
    assert caught.value.hint == "--model path/to/config.json"


def test_layers_with_other_windows_and_head_dims_are_workloads_of_their_own() -> None:
    sizes = Sizes(phase=["prefill", "decode"], batch=[1], kv_len=[256, 4096],
                  input_dtype=["bf16"])  # fmt: skip
    assert [str(w) for w in of_model(sizes, load("gemma-3-1b"), kind="cuda")] == [
        "prefill b1 q256 kv256 4/1 d256 causal bf16",
        "decode b1 q1 kv256 4/1 d256 causal bf16",
        "prefill b1 q4096 kv4096 4/1 d256 causal bf16",
        "prefill b1 q4096 kv4096 4/1 d256 causal w512 bf16",
        "decode b1 q1 kv4096 4/1 d256 causal bf16",
        "decode b1 q1 kv4096 4/1 d256 causal w512 bf16",
    ]
    assert [str(w) for w in of_model(sizes, load("hunyuan-ocr"), kind="cuda")] == [
        "prefill b1 q256 kv256 16/8 d128 causal bf16",
        "prefill b1 q256 kv256 16/16 d72 full bf16",
        "decode b1 q1 kv256 16/8 d128 causal bf16",
        "prefill b1 q4096 kv4096 16/16 d72 full bf16",
        "prefill b1 q4096 kv4096 16/8 d128 causal bf16",
        "decode b1 q1 kv4096 16/8 d128 causal bf16",
    ]


def test_an_encoder_has_no_decode() -> None:
    assert of_model(Sizes(phase=["decode"]), load("bert-base"), kind="cpu") == []


def shape(config: dict[str, Any]) -> tuple[int, int, int, int]:
    found = from_config(config, "config.json").layers[0]
    return found.q_heads, found.kv_heads, found.head_dim, found.head_dim_v


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"num_attention_heads": 12, "hidden_size": 768}, (12, 12, 64, 64)),
        ({"num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128,
          "hidden_size": 5120}, (64, 8, 128, 128)),
        ({"num_attention_heads": 64, "num_key_value_heads": 64, "qk_nope_head_dim": 128,
          "qk_rope_head_dim": 64, "v_head_dim": 128, "hidden_size": 7168}, (64, 64, 192, 128)),
        ({"hidden_size": 1, "text_config": {"num_attention_heads": 16, "num_key_value_heads": 4,
          "head_dim": 80}}, (16, 4, 80, 80)),
        ({"thinker_config": {"text_config": {"num_attention_heads": 2, "hidden_size": 16}}},
         (2, 2, 8, 8)),
        ({"n_head": 12, "n_embd": 768}, (12, 12, 64, 64)),
        ({"num_attention_heads": 32, "multi_query_group_num": 2, "kv_channels": 128},
         (32, 2, 128, 128)),
        ({"num_attention_heads": 71, "num_kv_heads": 71, "multi_query": True,
          "hidden_size": 4544}, (71, 1, 64, 64)),
        ({"num_attention_heads": 4, "num_key_value_heads": None, "head_dim": None,
          "hidden_size": 32}, (4, 4, 8, 8)),
    ],
)  # fmt: skip
def test_a_configuration_gives_the_shape(
    config: dict[str, Any], expected: tuple[int, int, int, int]
) -> None:
    assert shape(config) == expected


BASE = {"num_attention_heads": 4, "head_dim": 8, "num_hidden_layers": 12}


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        ({}, [(12, None)]),
        ({"sliding_window": 512}, [(12, 512)]),
        ({"sliding_window": 512, "use_sliding_window": False}, [(12, None)]),
        ({"sliding_window": 512, "use_sliding_window": True, "max_window_layers": 8},
         [(8, None), (4, 512)]),
        ({"sliding_window": 512, "sliding_window_pattern": 6}, [(2, None), (10, 512)]),
        ({"sliding_window": 512, "model_type": "gemma2"}, [(6, None), (6, 512)]),
        ({"sliding_window": 512, "layer_types": ["sliding_attention", "full_attention"] * 6},
         [(6, None), (6, 512)]),
        ({"layer_types": ["linear_attention"] * 9 + ["full_attention"] * 3,
          "sliding_window": 512}, [(3, None)]),
        ({"num_hidden_layers": None, "sliding_window": 512}, [(None, None), (None, 512)]),
    ],
)  # fmt: skip
def test_windows_make_kinds_of_layers(
    config: dict[str, Any], kinds: list[tuple[int | None, int | None]]
) -> None:
    found = from_config(BASE | config, "x").layers
    assert [(layers.count, layers.window) for layers in found] == kinds


def test_wider_heads_where_all_keys_are_seen() -> None:
    config = {"sliding_window": 64, "sliding_window_pattern": 6, "global_head_dim": 16,
              "num_key_value_heads": 2, "num_global_key_value_heads": 1}  # fmt: skip
    found = from_config(BASE | config, "x").layers
    assert [(it.head_dim, it.kv_heads, it.window) for it in found] == [(16, 1, None), (8, 2, 64)]


def test_masks_caps_sinks_and_latents() -> None:
    plain = from_config({**BASE, "max_position_embeddings": 2048}, "x")
    assert (plain.layers[0].mask, plain.context, plain.soft_cap) == (Mask.CAUSAL, 2048, None)
    assert from_config({**BASE, "attn_logit_softcapping": 50.0}, "x").soft_cap == 50.0
    assert from_config({**BASE, "model_type": "gpt_oss"}, "x").sinks
    latent = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128,
              "v_head_dim": 128}  # fmt: skip
    assert from_config(BASE | latent, "x").latent == 576
    for config, mask in (
        ({"model_type": "bert"}, Mask.FULL),
        ({"model_type": "bert", "is_decoder": True}, Mask.CAUSAL),
        ({"architectures": ["NeoMaskedLM"]}, Mask.FULL),
    ):
        assert from_config(BASE | config, "x").layers[0].mask is mask


def test_encoders_beside_a_language_model() -> None:
    config = {
        "text_config": BASE,
        "vision_config": {"num_heads": 16, "hidden_size": 1152, "depth": 27},
        "audio_config": {"num_attention_heads": 20, "d_model": 1280, "encoder_layers": 32,
                         "max_source_positions": 1500},
    }  # fmt: skip
    _, vision, audio = from_config(config, "x").layers
    assert (vision.part, vision.count, vision.head_dim, vision.mask) == (
        "vision encoder", 27, 72, Mask.FULL,
    )  # fmt: skip
    assert (audio.part, audio.q_heads, audio.head_dim, audio.context) == (
        "audio encoder", 20, 64, 1500,
    )  # fmt: skip
    assert len(from_config(config | {"vision_config": {"depth": 3}}, "x").layers) == 2


def test_a_file_and_its_folder_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"num_attention_heads": 12, "hidden_size": 768}))
    assert load(str(file)) == load(str(tmp_path))
    its = Layers(count=None, q_heads=12, kv_heads=12, head_dim=64, head_dim_v=64,
                 mask=Mask.CAUSAL)  # fmt: skip
    assert load(str(file)) == Geometry(
        name=str(file), layers=(its,), context=None, source=str(file)
    )


CAPPED = {"num_attention_heads": 4, "head_dim": 8}


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ([], "x is no model's config.json."),
        ({}, "x gives no num_attention_heads."),
        ({"num_attention_heads": 12}, "x gives no head_dim."),
        ({"num_attention_heads": 12, "hidden_size": 100}, "x gives no head_dim."),
        ({"num_attention_heads": "12"},
         "x: num_attention_heads must be a whole number of at least 1, got '12'."),
        ({"num_attention_heads": 12, "head_dim": 0},
         "x: head_dim must be a whole number of at least 1, got 0."),
        (CAPPED | {"attn_logit_softcapping": True},
         "x: attn_logit_softcapping must be a number from 0 on, got True."),
        (CAPPED | {"attn_logit_softcapping": -1},
         "x: attn_logit_softcapping must be a number from 0 on, got -1."),
        (CAPPED | {"attn_logit_softcapping": 10**400},
         f"x: attn_logit_softcapping must be a number from 0 on, got 1{'0' * 79}…."),
    ],
)  # fmt: skip
def test_a_configuration_without_geometry_is_one_sentence(config: object, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        from_config(config, "x")
    assert caught.value.sentence == sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("# autoprec", "the model file {} is no JSON: Expecting value: line 1 column 1 (char 0)."),
        ("[" * 100_000, "the model file {} is nested too deeply."),
        ("[]", "{} is no model's config.json."),
    ],
)
def test_what_is_no_model_file_is_refused_with_what_to_name(
    tmp_path: Path, text: str, sentence: str
) -> None:
    file = tmp_path / "README.md"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        load(str(file))
    assert caught.value.sentence == sentence.format(file)
    assert caught.value.hint == (
        "a Hugging Face config.json, a preset such as qwen3-8b, or --heads and --head-dim"
    )


def test_an_unknown_model_is_one_sentence_with_the_presets() -> None:
    with pytest.raises(InputError) as caught:
        load("llama-9")
    assert caught.value.sentence == "--model llama-9 is no preset and no file."
    assert caught.value.hint.startswith("the path of a config.json, --heads and --head-dim, or one")
    assert "llama-3.1-8b" in caught.value.hint
