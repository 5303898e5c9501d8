"""A model's layers from its Hugging Face config.json."""

from collections.abc import Iterator
from typing import Any

from autoprec.errors import InputError
from autoprec.model_layers import Geometry, Layers, shortened
from autoprec.types import Mask

HINT = "a Hugging Face config.json, a preset such as qwen3-8b, or --heads and --head-dim"
"""What to name where a file is none of a model."""

# The same number has other names in other models' files; the first that is there counts.
_Q_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads", "encoder_attention_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "multi_query_group_num")
_HIDDEN = ("hidden_size", "n_embd", "d_model", "embed_dim")
_HEAD_DIM = ("head_dim", "kv_channels", "attention_head_dim")
_COUNT = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "depth", "encoder_layers")
_CONTEXT = ("max_position_embeddings", "n_positions", "seq_length", "max_source_positions")
_TEXT = ("text_config", "llm_config", "language_config", "thinker_config")
_ENCODER_PARTS = {"vision_config": "vision encoder", "audio_config": "audio encoder"}
_ENCODERS = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "modernbert", "esm")

# Every how many layers one sees all keys, where the file leaves it to the model's code.
_PATTERNS = {"gemma2": 2, "gpt_oss": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4}
_WINDOWED, _ALL = ("sliding_attention", "chunked_attention"), "full_attention"


def from_config(config: object, name: str) -> Geometry:
    """The geometry in a Hugging Face config.json.

    Args:
        config: What the file holds.
        name: What messages call it.

    Raises:
        InputError: The geometry is not in it, or is not one.
    """
    if not isinstance(config, dict):
        raise InputError(f"{name} is no model's config.json.", HINT)
    whole, config = config, _language_model(config)
    if _number(config, name, _Q_HEADS) is None:
        raise InputError(f"{name} gives no num_attention_heads.", "--heads and --head-dim")
    return Geometry(
        name=name,
        layers=(*_decoder(config, name), *_encoders(whole, name)),
        context=_number(config, name, _CONTEXT),
        soft_cap=_soft_cap(config, name),
        sinks=config.get("model_type") == "gpt_oss",
        latent=_latent(config, name),
        source=name,
    )


def _language_model(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that speaks of the language model."""
    inner: dict[str, Any] | None = config
    while inner is not None:
        config = inner
        inner = next((inner[key] for key in _TEXT if isinstance(inner.get(key), dict)), None)
    return config


def _decoder(config: dict[str, Any], name: str) -> Iterator[Layers]:
    """The kinds of layers of the language model, those that see all keys first."""
    q_heads = _number(config, name, _Q_HEADS) or 0
    head_dim, head_dim_v, mla = _head_dims(config, name, q_heads)
    kv_heads = q_heads if mla else _kv_heads(config, name, q_heads)
    mask = Mask.FULL if _is_encoder(config) else Mask.CAUSAL
    window = _number(config, name, ("sliding_window",))
    total, windowed = _counts(config, name, window)
    if windowed is None or total is None or windowed < total:
        wide = _number(config, name, ("global_head_dim",))
        yield Layers(
            count=None if total is None else total - (windowed or 0),
            q_heads=q_heads,
            kv_heads=_number(config, name, ("num_global_key_value_heads",)) or kv_heads,
            head_dim=wide or head_dim,
            head_dim_v=wide or head_dim_v,
            mask=mask,
        )
    if windowed is None or windowed:
        yield Layers(
            count=windowed, q_heads=q_heads, kv_heads=kv_heads, head_dim=head_dim,
            head_dim_v=head_dim_v, mask=mask, window=window,
        )  # fmt: skip


def _counts(config: dict[str, Any], name: str, window: int | None) -> tuple[int | None, int | None]:
    """Layers that compute attention, and those of them with the window; None for not known."""
    total = _number(config, name, _COUNT)
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and kinds:
        windowed = sum(kind in _WINDOWED for kind in kinds) if window else 0
        return windowed + sum(kind == _ALL or not window for kind in kinds), windowed
    if window is None or config.get("use_sliding_window", True) is False:
        return total, 0
    if total is None:
        return None, None
    pattern = _number(config, name, ("sliding_window_pattern",))
    pattern = pattern or _PATTERNS.get(str(config.get("model_type")))
    if pattern:
        return total, total - total // pattern
    first = config.get("max_window_layers")
    if config.get("use_sliding_window") and type(first) is int and 0 <= first <= total:
        return total, total - first
    return total, total


def _encoders(config: dict[str, Any], name: str) -> Iterator[Layers]:
    """The encoders of images and sound beside a language model, where the file describes them."""
    for key, part in _ENCODER_PARTS.items():
        its = config.get(key)
        if not isinstance(its, dict):
            continue
        heads, hidden = _number(its, name, _Q_HEADS), _number(its, name, _HIDDEN)
        head_dim = _number(its, name, _HEAD_DIM)
        if heads is None or (head_dim is None and (hidden is None or hidden % heads)):
            continue  # what is not described cannot be measured
        head_dim = head_dim or (hidden or 0) // heads
        yield Layers(
            count=_number(its, name, _COUNT), q_heads=heads,
            kv_heads=_number(its, name, _KV_HEADS) or heads, head_dim=head_dim,
            head_dim_v=head_dim, mask=Mask.FULL, part=part, context=_number(its, name, _CONTEXT),
        )  # fmt: skip


def _head_dims(config: dict[str, Any], name: str, q_heads: int) -> tuple[int, int, bool]:
    """Elements of a key and of a value, and whether the heads are MLA's."""
    parts = [
        _number(config, name, (key,))
        for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    ]
    if None not in parts:
        nope, rope, value = (part for part in parts if part is not None)
        return nope + rope, value, True
    head_dim = _number(config, name, _HEAD_DIM)
    if head_dim is None:
        hidden = _number(config, name, _HIDDEN)
        if hidden is None or hidden % q_heads:
            raise InputError(f"{name} gives no head_dim.", "--heads and --head-dim")
        head_dim = hidden // q_heads
    return head_dim, head_dim, False


def _latent(config: dict[str, Any], name: str) -> int | None:
    rank = _number(config, name, ("kv_lora_rank",))
    rope = _number(config, name, ("qk_rope_head_dim",))
    return None if rank is None or rope is None else rank + rope


def _kv_heads(config: dict[str, Any], name: str, q_heads: int) -> int:
    if config.get("multi_query") is True and not config.get("new_decoder_architecture"):
        return 1  # the first Falcons name 71 KV heads beside this and have one
    return _number(config, name, _KV_HEADS) or q_heads


def _is_encoder(config: dict[str, Any]) -> bool:
    if config.get("is_decoder"):
        return False
    architectures = str(config.get("architectures", ""))
    return "MaskedLM" in architectures or config.get("model_type") in _ENCODERS


def _number(config: dict[str, Any], name: str, keys: tuple[str, ...]) -> int | None:
    """The first of the keys that is there and not null.

    Raises:
        InputError: It is no whole number above zero.
    """
    for key in keys:
        value = config.get(key)
        if value is None:
            continue
        if type(value) is not int or not 0 < value < 10**9:
            got = shortened(repr(value))
            raise InputError(f"{name}: {key} must be a whole number of at least 1, got {got}.")
        return value
    return None


def _soft_cap(config: dict[str, Any], name: str) -> float | None:
    """The tanh cap on logits; 0 and null stand for none.

    Raises:
        InputError: It is no number, or one that no logit can be capped at.
    """
    key = "attn_logit_softcapping"
    value = config.get(key)
    if value is None:
        return None
    # The bound comes before float(), which refuses a whole number of hundreds of digits.
    if type(value) not in (int, float) or not 0 <= value < 10**9:
        got = shortened(repr(value))
        raise InputError(f"{name}: {key} must be a number from 0 on, got {got}.")
    return float(value) or None
