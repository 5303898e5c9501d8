"""A model's layers, as far as attention goes."""

from dataclasses import dataclass

from autoprec.types import Mask


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Layers of a model that compute attention alike.

    Attributes:
        count: How many there are; None where that is not known.
        head_dim: Elements of a query or key vector; MLA counts with its heads expanded.
        head_dim_v: Elements of a value vector.
        mask: Causal for a decoder, full for an encoder.
        window: Keys that a query sees at most; None for all of them.
        part: What part of the model they are, such as ``vision encoder``; "" for the model's own.
        context: Tokens they take at most where that is not the model's.
    """

    count: int | None
    q_heads: int
    kv_heads: int
    head_dim: int
    head_dim_v: int
    mask: Mask
    window: int | None = None
    part: str = ""
    context: int | None = None


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What a model asks of attention.

    Attributes:
        name: The preset's name, or the file.
        layers: Its kinds of layers, those of the language model first; () where none is known.
        context: Tokens the model takes at most; None where that is not known.
        soft_cap: The tanh cap on logits; None for none.
        sinks: Whether each head has a learned logit beside its keys.
        latent: Numbers that MLA caches for a token in a layer, in place of K and V; None without.
        source: Where the numbers are from.
        unknown: What of them is not certain; "" for nothing.
    """

    name: str
    layers: tuple[Layers, ...]
    context: int | None
    soft_cap: float | None = None
    sinks: bool = False
    latent: int | None = None
    source: str = ""
    unknown: str = ""


def shortened(text: str) -> str:
    """A text for a sentence, cut off where it is long."""
    return text if len(text) <= 80 else f"{text[:80]}…"
