"""Presets and Hugging Face configurations."""

import json
from pathlib import Path
from typing import Any

import pytest

from autoprec.errors import InputError
from autoprec.geometry import Geometry, from_config, load, presets
from autoprec.sizes import Sizes
from autoprec.types import Mask
from autoprec.workloads import expand, of_model


@pytest.mark.parametrize("name", presets())
def test_every_preset_has_a_source_and_makes_workloads(name: str) -> None:
    geometry = load(name.upper())
    assert geometry.name == name
    assert geometry.source
    for workload in expand(of_model(Sizes(), geometry), kind="cuda"):
        assert workload.head_dim == geometry.head_dim
        assert geometry.context is None or workload.kv_len <= geometry.context


def shape(config: dict[str, Any]) -> tuple[int, int, int, int]:
    found = from_config(config, "config.json")
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


def test_masks_windows_caps_and_sinks() -> None:
    base = {"num_attention_heads": 4, "head_dim": 8, "max_position_embeddings": 2048}
    plain = from_config({**base, "sliding_window": 512, "use_sliding_window": False}, "x")
    assert (plain.mask, plain.window, plain.remark()) == (Mask.CAUSAL, None, "")
    assert plain.context == 2048
    capped = from_config({**base, "sliding_window": 512, "attn_logit_softcapping": 50.0}, "x")
    assert capped.remark() == (
        "x has layers with a window of 512 keys and a soft cap of 50: tuned as if it had none."
    )
    sinks = from_config({**base, "model_type": "gpt_oss"}, "x")
    assert sinks.remark() == "x has layers with sinks: tuned as if it had none."
    assert from_config({**base, "model_type": "bert"}, "x").mask is Mask.FULL
    assert from_config({**base, "model_type": "bert", "is_decoder": True}, "x").mask is Mask.CAUSAL
    masked = from_config({**base, "architectures": ["NeoMaskedLM"]}, "x")
    assert masked.mask is Mask.FULL


def test_a_file_and_its_folder_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"num_attention_heads": 12, "hidden_size": 768}))
    assert load(str(file)) == load(str(tmp_path))
    assert load(str(file)) == Geometry(
        name=str(file), q_heads=12, kv_heads=12, head_dim=64, head_dim_v=64, mask=Mask.CAUSAL,
        context=None, source=str(file),
    )  # fmt: skip


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


def test_an_unknown_model_is_one_sentence_with_the_presets() -> None:
    with pytest.raises(InputError) as caught:
        load("llama-9")
    assert caught.value.sentence == "--model llama-9 is no preset and no file."
    assert caught.value.hint.startswith("the path of a config.json, --heads and --head-dim, or one")
    assert "llama-3.1-8b" in caught.value.hint
