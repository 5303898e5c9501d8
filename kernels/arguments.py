"""What a call hands to the jit pieces that decode and prefill share, by their names there."""

from typing import Any

import torch

from autoprec.kernels.blocks import base2_scale, cap_scales
from autoprec.kernels.interface import DTYPES, Call, PackedMask, converts, is_wide, strides
from autoprec.paths import PATHS


def stored(call: Call, path: str) -> dict[str, Any]:
    """Where K and V lie and in what form, for a kernel that reads them as they are stored."""
    scheme = PATHS[path]
    halves = call.halves
    fp16 = scheme.operand == "fp16"
    arguments: dict[str, Any] = {
        "K": call.k, "V": call.v, "K_INVERSE": None, "V_INVERSE": None,
        **strides("k", call.k), **strides("v", call.v),
        "si_b": None, "si_h": None, "si_t": None,
        "k_plane": 0, "v_plane": 0,
        "FORM": "registers",
        "SCALED_Q": fp16 and converts(path, DTYPES[call.q.dtype]),
        "SCALED_KV": fp16 and converts(path, DTYPES[call.k.dtype]) and halves is None,
        "WIDE": is_wide(call.k, call.v),
    }  # fmt: skip
    if halves is not None:
        k_inverse, v_inverse = halves.inverse.unbind()
        arguments |= {
            "K_INVERSE": k_inverse,
            "V_INVERSE": v_inverse,
            **strides("i", k_inverse),
            "k_plane": halves.k.stride(0),
            "v_plane": halves.v.stride(0),
            "FORM": "halves",
        }
    return arguments


def lengths(call: Call) -> dict[str, Any]:
    """Requests: how long they are, and where."""
    requests = call.requests
    paged = requests is not None and requests.pages is not None
    return {
        "Q_STARTS": None if requests is None else requests.q_starts,
        "KV_LENS": None if requests is None else requests.kv_lens,
        "KV_STARTS": None if requests is None else requests.kv_starts,
        "PAGES": requests.pages if paged and requests is not None else None,
        "q_len": call.max_q_len,
        "kv_len": call.max_kv_len,
        "PAGE": call.k.shape[2] if paged else 0,
    }


def logits(call: Call) -> dict[str, Any]:
    """What becomes of the products of queries and keys, and which of them a query sees."""
    aligned = 0 if call.requests is not None else call.max_kv_len - call.max_q_len
    cap_in, cap_out = cap_scales(call.sm_scale, call.soft_cap)
    adds = isinstance(call.mask, torch.Tensor) and call.mask.dtype != torch.bool
    if adds and call.soft_cap is None:
        cap_in = base2_scale(call.sm_scale)
    return {
        "SINKS": call.sinks,
        "diagonal": aligned if call.diagonal is None else call.diagonal,
        # no request is that long, and differences stay within int32
        "window_left": None if call.window_left is None else min(call.window_left, 1 << 30),
        "qk_scale": base2_scale(call.sm_scale) if call.soft_cap is None and not adds else 1.0,
        "cap_in": cap_in,
        "cap_out": cap_out,
        "CAUSAL": _hides(call),
        "WINDOW": call.window_left is not None,
        "CAP": call.soft_cap is not None,
    }


def masked(call: Call) -> dict[str, Any]:
    """The caller's own mask."""
    mask = call.mask
    arguments: dict[str, Any] = {"MASK": None, "MASK_STARTS": None, "MASKING": "none",
                                 "sm_b": None, "sm_h": None, "sm_t": None,
                                 "sm_d": None}  # fmt: skip
    if isinstance(mask, PackedMask):
        return arguments | {"MASK": mask.bits, "MASK_STARTS": mask.starts, "MASKING": "bits"}
    if mask is None:
        return arguments
    bools = mask.dtype == torch.bool
    mask = mask.view(torch.uint8) if bools else mask
    return arguments | {"MASK": mask, **strides("m", mask),
                        "MASKING": "bools" if bools else "floats"}  # fmt: skip


def _hides(call: Call) -> bool:
    """Whether the diagonal hides a key: a single query aligned bottom-right sees them all."""
    if call.diagonal is None:
        return False
    if call.requests is None:
        return call.diagonal < call.max_kv_len - 1
    return call.diagonal < 0 or call.max_q_len > 1
