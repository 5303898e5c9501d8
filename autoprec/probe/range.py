"""The range of inputs, where a path's is narrow: how large they are and how far apart."""

import torch
from torch import Tensor

from autoprec.kernels.interface import Call
from autoprec.paths import PATHS

_TILE = 128  # tokens of a head that share a scale, at most


def has_a_range(path: str) -> bool:
    """Whether a path holds numbers in fp16."""
    return path in PATHS and PATHS[path].operand == "fp16"


def observed(call: Call) -> dict[str, float]:
    """The range of a call's inputs.

    Returns:
        ``q_max``, ``k_max`` and ``v_max``, the largest finite magnitudes, and ``spread_bits``: log2
        of how many times larger the largest token of a tile of keys or values is than the least
        that is not zero. Of 23 bits an fp16 path keeps its accuracy, of 14 one of two parts.
    """
    tokens = {name: _tokens(x) for name, x in (("q", call.q), ("k", call.k), ("v", call.v))}
    largest = {f"{name}_max": x.max() for name, x in tokens.items()}
    spread = torch.maximum(_spread(tokens["k"]), _spread(tokens["v"]))
    names = (*largest, "spread_bits")
    values = torch.stack([*largest.values(), spread]).tolist()
    return dict(zip(names, values, strict=True))


def _tokens(x: Tensor) -> Tensor:
    """The largest finite magnitude of each token, fp32."""
    return x.abs().float().nan_to_num(0.0, posinf=0.0).amax(-1)


def _spread(tokens: Tensor) -> Tensor:
    """Bits between the largest and the least token of a tile, the most of all tiles."""
    count = -(-tokens.shape[-1] // _TILE)
    tiles = tokens.new_zeros(*tokens.shape[:-1], count * _TILE)
    tiles[..., : tokens.shape[-1]] = tokens
    tiles = tiles.view(*tokens.shape[:-1], count, _TILE)
    least = torch.where(tiles > 0, tiles, torch.inf).amin(-1)
    bits = tiles.amax(-1).log2() - least.log2()
    return bits.nan_to_num(0.0, neginf=0.0).max()
