"""What FlashInfer's arguments may say that is not offered here: an error names it."""

from collections.abc import Mapping
from typing import Any

import torch

from autoprec.errors import InputError, UnsupportedError
from autoprec.kernels.interface import DTYPES
from autoprec.types import MAX_SIZE

Dtype = torch.dtype | str
"""A type, or its name in torch."""

# Ways of computing one and the same: the plan's measurements choose here, and these are ignored.
_BACKENDS = ("auto", "fa2", "fa3", "trtllm-gen", "cute-dsl", "cutlass", "xqa")

_FLOAT8 = {
    getattr(torch, name) for name in dir(torch) if name.startswith("float8_")
} | {torch.uint8}  # fmt: skip

_NOT_OFFERED = {
    "jit_args": "kernels of the caller's own (jit_args)",
    "jit_kwargs": "kernels of the caller's own (jit_kwargs)",
    "args": "further arguments of the caller's own kernels",
    "kv_cache_sf": "NVFP4 caches (kv_cache_sf)",
    "skip_softmax_threshold_scale_factor": "skipping parts of the softmax "
    "(skip_softmax_threshold_scale_factor)",
    "prefix_len_ptr": "multi-item scoring (prefix_len_ptr)",
    "token_pos_in_items_ptr": "multi-item scoring (token_pos_in_items_ptr)",
    "max_item_len_ptr": "multi-item scoring (max_item_len_ptr)",
    "scale_q": "FP8 queries (scale_q)",
    "scale_k": "FP8 keys (scale_k)",
    "scale_v": "FP8 values (scale_v)",
    "o_scale": "FP8 outputs (o_scale)",
    "v_indptr": "cuDNN's offsets (v_indptr)",
    "o_indptr": "cuDNN's offsets (o_indptr)",
}


def check_offered(given: Mapping[str, Any]) -> None:
    """Refuse arguments whose meaning nothing here has; None and () ask for nothing.

    Raises:
        UnsupportedError: It names the argument.
    """
    for name, value in given.items():
        if value is not None and value != ():
            raise UnsupportedError(f"{_NOT_OFFERED[name]}: not offered by autoprec.flashinfer.")


def check_pos_encoding(mode: str) -> None:
    """Refuse positions that the kernel would have to encode.

    Raises:
        InputError: FlashInfer knows no such mode either.
        UnsupportedError: It does.
    """
    if mode == "NONE":
        return
    if mode not in ("ROPE_LLAMA", "ALIBI"):
        raise InputError(f"pos_encoding_mode must be NONE, ROPE_LLAMA or ALIBI, got {mode!r}.")
    what, instead = ("RoPE", "turn q and k first") if mode == "ROPE_LLAMA" else ("ALiBi", "")
    raise UnsupportedError(
        f"{what} inside the kernel (pos_encoding_mode={mode!r}): not offered by "
        "autoprec.flashinfer.",
        f'{instead}, with pos_encoding_mode="NONE"' if instead else "",
    )


def check_kv_layout(kv_layout: str) -> None:
    """Refuse an unknown layout.

    Raises:
        InputError: As said.
    """
    if kv_layout not in ("NHD", "HND"):
        raise InputError(f"kv_layout must be NHD or HND, got {kv_layout!r}.")


def check_backend(backend: str) -> None:
    """Refuse a backend whose arguments mean something else, or that is unknown; ignore others.

    Raises:
        InputError: It is unknown.
        UnsupportedError: It is cuDNN's.
    """
    if backend == "cudnn":
        raise UnsupportedError(
            'cuDNN\'s offsets and natural LSE (backend="cudnn"): not offered by '
            "autoprec.flashinfer.",
            'backend="auto"',
        )
    if backend not in _BACKENDS:
        raise InputError(f"backend must be one of {', '.join(_BACKENDS)}, got {backend!r}.")


def check_dtype(name: str, dtype: torch.dtype) -> None:
    """Refuse types that attention is not offered in.

    Raises:
        InputError: It is no type of attention at all.
        UnsupportedError: It is FP8 or packed FP4.
    """
    if dtype in DTYPES:
        return
    if dtype in _FLOAT8:
        raise UnsupportedError(
            f"{name} is {dtype}: FP8 and FP4 are not offered by autoprec.flashinfer.",
            "float32, bfloat16 or float16",
        )
    raise InputError(f"{name} is {dtype}; attention takes float32, bfloat16 and float16.")


def dtype_of(name: str, given: Dtype) -> torch.dtype:
    """A type given as such or by its name in torch.

    Raises:
        InputError: It is neither.
        UnsupportedError: It is not offered.
    """
    dtype = getattr(torch, given, None) if isinstance(given, str) else given
    if not isinstance(dtype, torch.dtype):
        raise InputError(f"{name} must be a torch.dtype or its name, got {given!r}.")
    check_dtype(name, dtype)
    return dtype


def dtypes_of(
    q: Dtype | None,
    kv: Dtype | None,
    out: Dtype | None,
    both: Dtype | None = None,
) -> tuple[torch.dtype, torch.dtype, torch.dtype]:
    """Types of queries, cache and output, from what ``plan`` was given.

    Args:
        q: FlashInfer's default is ``float16``, which gives way to ``both``.
        kv: None: ``both``, else that of q.
        out: None: that of q.
        both: The deprecated ``data_type``.

    Raises:
        InputError: One is no type.
        UnsupportedError: One is not offered.
    """
    if both is not None and q in (None, "float16"):
        q = both
    q_dtype = dtype_of("q_data_type", "float16" if q is None else q)
    kv = both if kv is None else kv
    kv_dtype = q_dtype if kv is None else dtype_of("kv_data_type", kv)
    return q_dtype, kv_dtype, q_dtype if out is None else dtype_of("o_data_type", out)


def scaled(sm_scale: float, **factors: Any) -> float:
    """The factor on the logits, times q_scale and k_scale.

    Raises:
        InputError: A factor is no number.
        UnsupportedError: It lies on a device, from which nothing is read back.
    """
    for name, factor in factors.items():
        if factor is None:
            continue
        if isinstance(factor, torch.Tensor):
            if factor.is_cuda or factor.numel() != 1:
                raise UnsupportedError(
                    f"{name} on a device or of several elements: not offered by "
                    "autoprec.flashinfer.",
                    "a number",
                )
            factor = factor.item()
        if not isinstance(factor, float | int):
            raise InputError(f"{name} must be a number, got {factor!r}.")
        sm_scale *= factor
    return sm_scale


def window_of(window_left: int | None) -> int | None:
    """FlashInfer's window, of which any number below 0 is none, and any that no request fills."""
    # a workload takes no window beyond MAX_SIZE
    return None if window_left is None or not 0 <= window_left < MAX_SIZE else window_left


def soft_cap_of(logits_soft_cap: float | None) -> float | None:
    """FlashInfer's soft cap, of which any number not above 0 is none.

    Raises:
        InputError: It is no number.
    """
    if not isinstance(logits_soft_cap, float | int | None):
        raise InputError(f"logits_soft_cap must be a number, got {logits_soft_cap!r}.")
    return logits_soft_cap if logits_soft_cap is not None and logits_soft_cap > 0 else None
