"""A model's attention geometry, from a preset or from a Hugging Face config.json."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprec.errors import InputError
from autoprec.jsonfile import read_json
from autoprec.types import Mask

MAX_BYTES = 1 << 20
_PRESETS = Path(__file__).with_name("presets.json")

# The same number has other names in other models' files; the first that is there counts.
_Q_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "multi_query_group_num")
_HIDDEN = ("hidden_size", "n_embd", "d_model")
_HEAD_DIM = ("head_dim", "kv_channels", "attention_head_dim")
_CONTEXT = ("max_position_embeddings", "n_positions", "seq_length")
_TEXT = ("text_config", "llm_config", "language_config", "thinker_config")
_ENCODERS = ("bert", "roberta", "xlm-roberta", "distilbert", "electra", "modernbert", "esm")


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The shapes of one attention layer of a model.

    Attributes:
        name: The preset's name, or the file.
        head_dim: Elements of a query or key vector; MLA counts with its heads expanded.
        head_dim_v: Elements of a value vector.
        mask: Causal for a decoder, full for an encoder.
        context: Tokens the model takes at most; None where that is not known.
        window: Keys that a query of its windowed layers sees; None where no layer has a window.
        soft_cap: The tanh cap on logits; None for none.
        sinks: Whether each head has a learned logit beside its keys.
        source: Where the numbers are from.
        unknown: What of them is not certain; "" for nothing.
    """

    name: str
    q_heads: int
    kv_heads: int
    head_dim: int
    head_dim_v: int
    mask: Mask
    context: int | None
    window: int | None = None
    soft_cap: float | None = None
    sinks: bool = False
    source: str = ""
    unknown: str = ""

    def remark(self) -> str:
        """What the model has and the measured workloads leave out, in one sentence, or ""."""
        parts = [
            *([f"a window of {self.window} keys"] if self.window else []),
            *([f"a soft cap of {self.soft_cap:g}"] if self.soft_cap else []),
            *(["sinks"] if self.sinks else []),
        ]
        if not parts:
            return ""
        return f"{self.name} has layers with {' and '.join(parts)}: tuned as if it had none."


def presets() -> dict[str, Geometry]:
    """Every preset by its name."""
    rows: dict[str, dict[str, Any]] = json.loads(_PRESETS.read_text(encoding="utf-8"))
    found = {}
    for name, row in rows.items():
        mask = Mask(row.pop("mask", Mask.CAUSAL))
        found[name] = Geometry(**{"head_dim_v": row["head_dim"], **row}, name=name, mask=mask)
    return found


def load(text: str) -> Geometry:
    """The geometry of a preset, of a config.json, or of the folder that one lies in.

    Raises:
        InputError: There is no such preset and no such file, or the file gives no geometry.
    """
    known = presets()
    if text.lower() in known:
        return known[text.lower()]
    path = Path(text)
    try:
        if path.is_dir():
            path /= "config.json"
        there = path.exists()
    except OSError:  # such as a name that is too long for any file
        there = False
    if not there:
        raise InputError(
            f"--model {_short(text)} is no preset and no file.",
            f"the path of a config.json, --heads and --head-dim, or one of {', '.join(known)}",
        )
    return from_config(read_json(path, "the model file", MAX_BYTES), str(path))


def from_config(config: object, name: str) -> Geometry:
    """The geometry in a Hugging Face config.json.

    Args:
        config: What the file holds.
        name: What messages call it.

    Raises:
        InputError: The geometry is not in it, or is not one.
    """
    if not isinstance(config, dict):
        raise InputError(f"{name} is no model's config.json.")
    config = _language_model(config)
    q_heads = _number(config, name, _Q_HEADS)
    if q_heads is None:
        raise InputError(f"{name} gives no num_attention_heads.", "--heads and --head-dim")
    head_dim, head_dim_v, mla = _head_dims(config, name, q_heads)
    window = None
    if config.get("use_sliding_window", True):
        window = _number(config, name, ("sliding_window",))
    return Geometry(
        name=name,
        q_heads=q_heads,
        kv_heads=q_heads if mla else _kv_heads(config, name, q_heads),
        head_dim=head_dim,
        head_dim_v=head_dim_v,
        mask=Mask.FULL if _is_encoder(config) else Mask.CAUSAL,
        context=_number(config, name, _CONTEXT),
        window=window,
        soft_cap=_soft_cap(config, name),
        sinks=config.get("model_type") == "gpt_oss",
        source=name,
    )


def _language_model(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that speaks of the language model."""
    inner: dict[str, Any] | None = config
    while inner is not None:
        config = inner
        inner = next((inner[key] for key in _TEXT if isinstance(inner.get(key), dict)), None)
    return config


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
            raise InputError(
                f"{name}: {key} must be a whole number of at least 1, got {_short(repr(value))}."
            )
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
        raise InputError(f"{name}: {key} must be a number from 0 on, got {_short(repr(value))}.")
    return float(value) or None


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}…"
