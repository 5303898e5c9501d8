"""What users would call instead: PyTorch's scaled_dot_product_attention, by named backend.

Other libraries are in ``peers``, as rows of the same kind.
"""

import functools
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from autoprec.errors import UnsupportedError
from autoprec.kernels.interface import TORCH_DTYPES, Call, Kernel, Target, features
from autoprec.probe.failures import first_line, lacks_memory
from autoprec.types import Config, Conversion, Layout, Phase, Storage, Workload

_BACKENDS = {
    "sdpa-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa-math": SDPBackend.MATH,
}
_ON_CPU = ("sdpa-flash", "sdpa-math")

# What even a backend that multiplies in fp32 does in some tenths of a second.
_QUICK_FLOPS = 1e13

# How PyTorch begins the warnings that say why it does not use a backend.
_TITLES = {
    "sdpa-efficient": "memory efficient",
    "sdpa-flash": "flash attention",
    "sdpa-cudnn": "cudnn attention",
}


@dataclass(frozen=True, kw_only=True)
class Baseline(Kernel):
    """A row of BASELINES.

    Attributes:
        bind: ``(call, path)`` → what a user would run and we time: it returns the output, in
            call.out's dtype. What a user would do once beforehand is done by binding.
        library: Which one it is, as it is installed: ``flashinfer-python``; "" for PyTorch.
        refuses: ``(workload)`` → sentences on what a library does not take; None for PyTorch,
            whose own words are used.
    """

    bind: Callable[[Call, str], Callable[[], torch.Tensor]]
    library: str = ""
    refuses: Callable[[Workload], list[str]] | None = None

    def refusals(
        self,
        path: str,
        workload: Workload,
        target: Target,
        *,
        storage: Storage | None = None,
        lengths: bool = False,
    ) -> list[str]:
        """Say what is known beforehand to be refused; PyTorch has the last word when it is run."""
        if self.refuses is not None:
            needs_gpu = [f"{self.name} needs an NVIDIA GPU"] if target.kind != "cuda" else []
            return needs_gpu or self.refuses(workload)
        reasons = []
        if path not in self.paths:
            reasons.append(f"{self.name} has no backend {path}")
        if target.kind == "cpu" and path not in _ON_CPU:
            reasons.append(f"PyTorch has no {path} on CPUs")
        if missing := features(workload):
            reasons.append(f"{self.name} has no {' and no '.join(missing)}")
        if workload.layout is not Layout.CONTIGUOUS:
            reasons.append(f"{self.name} takes contiguous K and V, not {workload.layout}")
        return reasons

    def device_refusals(self, target: Target) -> list[str]:
        """Nothing: PyTorch runs everywhere."""
        return []


def prepare(
    call: Call, path: str, row: Baseline | None = None, *, of_prefill: bool = False
) -> tuple[Callable[[], torch.Tensor], torch.Tensor]:
    """Bind a baseline to a call and run it once.

    Args:
        call: The call.
        path: The baseline's name.
        row: Its row; None for PyTorch's.
        of_prefill: Whether a band of queries is one of a prefill, which PyTorch's backends then
            run whole where that takes no time: for errors, not for times.

    Returns:
        What can be run again, and the output of the first time.

    Raises:
        UnsupportedError: PyTorch refuses; the sentence gives its reasons.
    """
    if of_prefill and _is_last_band(call) and _is_fused(call, path) and _is_quick(call):
        whole, out = prepare(_as_prefill(call), path, row)
        return whole, out[:, :, -call.q.shape[2] :]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            run = (row.bind if row else _bind)(call, path)
            return run, run()
        except RuntimeError as error:
            if lacks_memory(error):
                raise
            messages = [str(warning.message) for warning in caught]
            raise UnsupportedError(_sentence(path, messages, error)) from error


def conversion(workload: Workload, path: str, device: torch.device) -> Conversion:
    """AMORTISED where K/V heads are repeated beforehand, for a backend that takes no groups."""
    dtype = TORCH_DTYPES[workload.input_dtype]
    if path not in _BACKENDS:
        return Conversion.NONE  # all of the peers take groups
    if workload.group == 1 or _takes_groups(path, device.type, dtype):
        return Conversion.NONE
    return Conversion.AMORTISED


def scratch_bytes(workload: Workload, path: str, repeated: bool) -> int:
    """Bytes a baseline takes beside inputs and output, about.

    Args:
        workload: What is computed.
        path: The baseline.
        repeated: Whether K/V heads are repeated for it.
    """
    copies = workload.group * workload.kv_bytes
    if path == "sdpa-math":  # logits, probabilities and a masked copy, in fp32
        w = workload
        return 12 * w.batch * w.q_heads * w.q_len * w.kv_len + 2 * copies
    return copies if repeated else 0


def _bind(call: Call, path: str) -> Callable[[], torch.Tensor]:
    backend = _BACKENDS[path]
    k, v = call.k, call.v
    group = call.q.shape[1] // k.shape[1]
    if group > 1 and not _takes_groups(path, k.device.type, k.dtype):
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        group = 1
    mask, is_causal = _mask(call, path)

    def run() -> torch.Tensor:
        with sdpa_kernel(backend):
            out = F.scaled_dot_product_attention(
                call.q, k, v, attn_mask=mask, is_causal=is_causal, scale=call.sm_scale,
                enable_gqa=group > 1,
            )  # fmt: skip
        return out.to(call.out.dtype)

    return run


def _mask(call: Call, path: str) -> tuple[torch.Tensor | None, bool]:
    """The mask argument and is_causal that stand for a call's diagonal."""
    q_len, kv_len, diagonal = call.q.shape[2], call.k.shape[2], call.diagonal
    if diagonal is None or diagonal >= kv_len - 1:  # the first query sees every key
        return None, False
    if diagonal == 0:
        return None, True
    if _is_last_band(call) and _is_fused(call, path):
        from torch.nn.attention.bias import causal_lower_right  # brings torch._dynamo: seconds

        return causal_lower_right(q_len, kv_len), False
    ones = torch.ones(q_len, kv_len, dtype=torch.bool, device=call.q.device)
    return ones.tril(diagonal), False


def _is_last_band(call: Call) -> bool:
    """Whether the queries are the last of more keys, each of which sees those up to its own."""
    q_len, kv_len = call.q.shape[2], call.k.shape[2]
    return call.diagonal == kv_len - q_len and q_len < kv_len


def _is_fused(call: Call, path: str) -> bool:
    """Whether a backend takes no mask but that of PyTorch's module of biases."""
    return path in ("sdpa-efficient", "sdpa-flash") and call.q.device.type != "cpu"


def without_unseen(call: Call) -> Call:
    """The call without the keys after those that its last query sees, which the others do not see.

    What fused backends and other libraries know is a diagonal that ends with the last key. That of
    ``requests`` does.
    """
    if call.requests is not None:
        return call
    q_len, kv_len = call.q.shape[2], call.k.shape[2]
    seen = kv_len if call.diagonal is None else call.diagonal + q_len
    if not q_len <= seen < kv_len:
        return call
    return replace(call, k=call.k[:, :, :seen], v=call.v[:, :, :seen])


def _is_quick(call: Call) -> bool:
    """Whether the prefill that a band is the end of takes less than loading a compiler does."""
    batch, heads, _, head_dim = call.q.shape
    kv_len = call.k.shape[2]
    return batch * heads * kv_len**2 * (head_dim + call.v.shape[3]) < _QUICK_FLOPS


def _as_prefill(call: Call) -> Call:
    """The prefill that a band is the end of: queries of zeros go before its own."""
    missing = call.k.shape[2] - call.q.shape[2]
    return replace(call, q=F.pad(call.q, (0, 0, missing, 0)), diagonal=0)


@functools.cache
def _takes_groups(path: str, device: str, dtype: torch.dtype) -> bool:
    """Whether a backend lets several query heads share a KV head, found by trying."""
    q = torch.zeros(1, 2, 8, 64, dtype=dtype, device=device)

    def works(kv: torch.Tensor) -> bool:
        try:
            F.scaled_dot_product_attention(q, kv, kv, enable_gqa=kv.shape != q.shape)
        except RuntimeError:
            return False
        return True

    with warnings.catch_warnings(), sdpa_kernel(_BACKENDS[path]):
        warnings.simplefilter("ignore")
        # where equal heads do not work either, repeating them would be for nothing
        return works(q[:, :1]) or not works(q)


def _sentence(path: str, messages: list[str], error: Exception) -> str:
    """PyTorch's own reasons: the warnings below the backend's title, or the error's first line."""
    reasons: list[str] = []
    ours = False
    for message in messages:
        text = re.sub(r"\s*\(Triggered internally at .*", "", message, flags=re.DOTALL).strip()
        if "kernel not used because" in text:
            ours = text.lower().startswith(_TITLES.get(path, "?"))
        elif ours and text.rstrip(".") not in reasons:
            reasons.append(text.rstrip("."))
    who = "PyTorch" if path in _BACKENDS else "its library"
    return f"{who} refuses {path}: {'; '.join(reasons) or first_line(error).rstrip('.')}."


def _run(call: Call, path: str, config: Config) -> None:
    if call.lse is not None:
        raise UnsupportedError(
            f"{path} gives no LSE.", "return_lse=False, or a plan that chooses no baseline"
        )
    try:
        call.out.copy_(_bind(call, path)())
    except RuntimeError as error:
        if lacks_memory(error):
            raise
        call.out.copy_(prepare(call, path)[1])  # raises again, now with PyTorch's reasons


BASELINES = (
    Baseline(
        name="torch-sdpa",
        device="any",
        paths=tuple(_BACKENDS),
        phases=(Phase.PREFILL, Phase.APPEND, Phase.DECODE),
        max_head_dim=1 << 30,  # PyTorch says where its own limits are
        converts=lambda path, dtype: False,
        configs=lambda path, workload, target: ({},),
        run=_run,
        bind=_bind,
    ),
)
