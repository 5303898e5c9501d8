"""What a kernel is handed, what it says of itself, and how its launches are run or compiled."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import torch

from autoprec.paths import PATHS
from autoprec.types import MAX_DECODE_Q_LEN, Config, Dtype, Layout, Phase, Storage, Workload

TORCH_DTYPES = {
    Dtype.FP32: torch.float32,
    Dtype.BF16: torch.bfloat16,
    Dtype.FP16: torch.float16,
}
DTYPES = {theirs: ours for ours, theirs in TORCH_DTYPES.items()}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A kind of device to choose configurations and compile for.

    Attributes:
        kind: ``cuda``, ``hip`` or ``cpu``.
        arch: ``sm_90``, ``gfx942``; for a CPU the machine's architecture.
        shared_bytes: Shared memory one block may use; 0 on a CPU.
        units: Streaming multiprocessors, compute units, or cores.
    """

    kind: str
    arch: str
    shared_bytes: int
    units: int


@dataclass(frozen=True)
class Launch:
    """One launch of a ``@triton.jit`` function.

    Attributes:
        function: The jit function.
        grid: Blocks along each axis.
        arguments: By name: tensors, descriptors of tensors, numbers, constexprs, and num_warps,
            num_stages.
        temporary: Names of arguments that are memory made for these launches, which write there
            before they read: whoever launches again may hand them other memory, the same to later
            launches that read what was written.
        zeroed: Those of them that must be zero as the launch begins.
    """

    function: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    temporary: tuple[str, ...] = ()
    zeroed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Planes:
    """Keys or values in the parts that a path multiplies.

    Attributes:
        data: ``[parts, batch, heads, tokens, head_dim]`` in the path's operand type, contiguous,
            head_dim padded with zeros as the kernel asked. Batch is 1 where requests lie one after
            another.
        inverse: fp32 ``[batch, heads, blocks of tokens]``, the factor that the elements of a block
            lost before they were rounded; None where they were not scaled.
    """

    data: torch.Tensor
    inverse: torch.Tensor | None


@dataclass(frozen=True)
class Prepared:
    """K and V as one kernel, path and configuration reads them; made once, for many calls.

    Attributes:
        k: K's planes.
        v: V's.
        launches: What fills both.
    """

    k: Planes
    v: Planes
    launches: list[Launch]

    @property
    def nbytes(self) -> int:
        """Bytes that the planes and their scales take."""
        tensors = (self.k.data, self.v.data, self.k.inverse, self.v.inverse)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


class Feature(StrEnum):
    """What a kernel may do beyond plain attention, as refusals call it."""

    WINDOW = "sliding window"
    SOFT_CAP = "soft cap"
    SINKS = "attention sinks"
    MASK = "custom mask"


@dataclass(frozen=True, kw_only=True)
class Requests:
    """Requests of unequal lengths; kernels read the lengths and places on the device.

    All tensors are int32, contiguous, and on the device of q. What k and v hold beyond a length
    counts for nothing, be it NaN; page numbers beyond it are not read.

    Attributes:
        kv_lens: ``[batch]``, the keys of each request; 0 is allowed.
        kv_starts: ``[batch]`` or longer (the starts of FlashInfer's indptr): without pages, the
            first token of each request in k and v ``[1, kv_heads, total, head_dim]`` (ragged);
            with pages, the place of its first page in ``pages``. None: k and v are
            ``[batch, kv_heads, longest, head_dim]``.
        pages: ``[n]``, page numbers, those of a request one after another, each request from its
            kv_starts on; a page may stand in several places. k and v are then
            ``[pages, kv_heads, page_size, head_dim]`` of any strides. None: there are no pages.
        q_starts: ``[batch + 1]``: the queries of request b are the rows q_starts[b] to
            q_starts[b + 1] - 1 of q ``[1, q_heads, total, head_dim]``; out and lse likewise. None:
            q is ``[batch, q_heads, q_len, head_dim]``.
        max_q_len: No request has more queries. Grids are sized by these two, so that nothing is
            read back from the device, and lengths may change between replays of a CUDA graph.
        max_kv_len: No request has more keys; 1 at least, though none may have any.
    """

    kv_lens: torch.Tensor
    kv_starts: torch.Tensor | None = None
    pages: torch.Tensor | None = None
    q_starts: torch.Tensor | None = None
    max_q_len: int
    max_kv_len: int

    @property
    def layout(self) -> Layout:
        """How k and v lie."""
        if self.pages is not None:
            return Layout.PAGED
        return Layout.CONTIGUOUS if self.kv_starts is None else Layout.RAGGED


@dataclass(frozen=True)
class PackedMask:
    """What each query sees, a bit for every query and key of each request: FlashInfer's form.

    Attributes:
        bits: uint8 ``[bytes]``, contiguous; bit (i * kv_len + j) % 8, from the lowest, of byte
            (i * kv_len + j) // 8 of a request says whether its query i sees its key j.
        starts: int32 ``[batch]`` or longer, contiguous: the first byte of each request.
    """

    bits: torch.Tensor
    starts: torch.Tensor


@dataclass(frozen=True)
class Halves:
    """K and V as a cache of ``Storage.PLANES`` holds them: x = (hi + lo) * inverse, token by token.

    Attributes:
        k: fp16 ``[2, ...]``, the high and the low parts; each is of the shape of Call.k.
        v: Likewise, of the shape of Call.v.
        inverse: fp32 ``[2, ..., kv_heads, tokens]``, K's and V's: the power of two that each token
            of a head lost before it was rounded; 2^-126 stands for a token of zeros.
    """

    k: torch.Tensor
    v: torch.Tensor
    inverse: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Call:
    """One attention call, validated: tensors of any strides on one device.

    Attributes:
        q: ``[batch, q_heads, q_len, head_dim]``, fp32, bf16 or fp16.
        k: ``[batch, kv_heads, kv_len, head_dim]``, q's dtype, or another that the kernel's
            ``forms`` name.
        v: ``[batch, kv_heads, kv_len, head_dim_v]``, k's dtype.
        out: ``[batch, q_heads, q_len, head_dim_v]``, fp32, bf16 or fp16; written.
        lse: ``[batch, q_heads, q_len]``, fp32, log2 of the sum of exp of the scaled logits, the
            sink among them; written. None where it is not wanted.
        diagonal: Query i sees keys 0 to i + diagonal; None: it sees all. kv_len - q_len aligns
            the mask bottom-right, 0 upper-left. With ``requests`` it is counted from each
            request's own bottom-right alignment: keys 0 to i + kv_len - q_len + diagonal, so that
            0 is the causal mask. A row that sees no key gives O = 0, LSE = -inf (its sink's, if
            there are sinks).
        sm_scale: Factor on the logits.
        requests: Lengths and places of requests; q, k, v, out and lse are as it says. None: every
            request has q_len queries and kv_len keys.
        window_left: Query i sees no key before i + diagonal - window_left, with the diagonal of
            bottom-right alignment where it is None: window_left + 1 keys up to its own. None: no
            window.
        soft_cap: Logits s, scaled, become soft_cap * tanh(s / soft_cap). None: they do not.
        sinks: fp32 ``[q_heads]``, logits (natural units) that join the sum of every row of their
            head and have no value. None: there are none.
        mask: What each query sees, beside the diagonal and the window. A bool or float tensor
            ``[batch, q_heads, q_len, kv_len]`` of any strides, for calls without requests: False
            hides; a float joins the logit, scaled and capped, and -inf hides. None: nothing is
            hidden but by the diagonal and the window. A row of which every key is hidden gives
            O = 0, and so may one all of whose logits are -inf.
        halves: k and v are the high parts (``halves.k[0]``) of these. None: they are all there is.
        workspace: fp32, contiguous: where the kernel puts what ``Kernel.workspace`` counts. None,
            or too small: it allocates.
        prepared: K and V as the kernel's ``prepare`` made them, with the path and configuration
            of the call; k and v then only give the shapes. None: the kernel prepares them.
        lost: int32 ``[1]``, where a kernel that scales and rounds to fp16 adds how many of the
            tiles that it read lost accuracy to fp16's range; it does not wait for the device.
            Other kernels leave it alone. None: nothing is counted.
        only_if: int32 ``[1]``: where it holds 0 once their turn has come, the launches of a
            kernel for GPUs leave everything as it is. Kernels for CPUs do not look at it. None:
            they run.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    out: torch.Tensor
    lse: torch.Tensor | None
    diagonal: int | None
    sm_scale: float
    requests: Requests | None = None
    window_left: int | None = None
    soft_cap: float | None = None
    sinks: torch.Tensor | None = None
    mask: PackedMask | torch.Tensor | None = None
    halves: Halves | None = None
    workspace: torch.Tensor | None = None
    prepared: Prepared | None = None
    lost: torch.Tensor | None = None
    only_if: torch.Tensor | None = None

    @property
    def batch(self) -> int:
        """Requests."""
        return self.q.shape[0] if self.requests is None else self.requests.kv_lens.shape[0]

    @property
    def max_q_len(self) -> int:
        """No request has more queries."""
        return self.q.shape[2] if self.requests is None else self.requests.max_q_len

    @property
    def max_kv_len(self) -> int:
        """No request has more keys."""
        return self.k.shape[2] if self.requests is None else self.requests.max_kv_len

    @property
    def lse_place(self) -> torch.Tensor:
        """Lse, or something of its rank to hand to a kernel that is told not to write it."""
        return self.out[..., 0] if self.lse is None else self.lse


class Prepare(Protocol):
    """Plans K and V as a kernel reads them, for a path and configuration; nothing runs yet."""

    def __call__(
        self,
        k: torch.Tensor,
        v: torch.Tensor,
        path: str,
        config: Config,
        lost: torch.Tensor | None = None,
        only_if: torch.Tensor | None = None,
    ) -> Prepared:
        """The planes and what fills them; ``lost`` and ``only_if`` are those of ``Call``."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A row of KERNELS: what a kernel can do, and how to have it done.

    Attributes:
        name: What reports call it.
        device: What it runs on: ``triton`` (cuda and hip), ``hopper`` (sm_90 alone) or ``cpu``.
        paths: Names of the precision paths it runs, exactly as ``paths.PATHS`` describes them.
        phases: The phases it serves.
        architectures: The chips it claims, and is compiled for in CI; () on a CPU.
        input_dtypes: Types of q, k, v it takes.
        converts: ``(path, input dtype)`` → whether it brings its operands into another type.
        configs: ``(path, workload, target)`` → configurations worth trying, the safest first.
        run: ``(call, path, config)`` → None; writes call.out and call.lse.
        launches: ``(call, path, config)`` → what run launches, in order; None on a CPU.
        repeat: ``(call, path, config)`` → what runs the call again and again, quicker for the host
            than run; what it holds is small. None: run does.
        prepare: ``(k, v, path, config, lost, only_if)`` → K and V as the kernel reads them, not
            filled yet; None where it reads them as they are.
        layouts: How K and V may lie. A kernel that takes more than contiguous ones takes
            ``Call.requests``, with contiguous ones as well.
        features: What else it can do.
        forms: Storage of K and V that need not be that of the inputs, and the paths that read it.
        workspace: ``(call, path, config)`` → fp32 elements that run takes for partial results.
        consistent: ``(path, workload, target)`` → the configuration of consistent mode, which
            depends on path, heads, head dims, types and chip alone: a request's output is then
            the same, bit by bit, in any batch. None: the kernel has no such mode.
        carried: ``(config, measured, workload, target)`` → a configuration that was measured on one
            workload, as it suits another. None: as it is.
        steady: ``(config, workload, target)`` → the configuration with a grid and a workspace that
            do not grow with ``max_kv_len``, for CUDA graphs of lengths to come. None: they never
            do.
        gathers: ``(path, workload)`` → whether it brings K and V together from their pages, into
            memory for all that there may be, before it reads them.
        max_head_dim: The largest head_dim and head_dim_v it takes.
        limits: ``(path, workload)`` → sentences on what else it does not take; [] for nothing.
        exp_error: Path → a bound on the relative error of its exponential.
    """

    name: str
    device: str
    paths: tuple[str, ...]
    phases: tuple[Phase, ...]
    architectures: tuple[str, ...] = ()
    input_dtypes: tuple[Dtype, ...] = (Dtype.FP32, Dtype.BF16, Dtype.FP16)
    max_head_dim: int = 256
    converts: Callable[[str, Dtype], bool]
    configs: Callable[[str, Workload, Target], Sequence[Config]]
    run: Callable[[Call, str, Config], None]
    launches: Callable[[Call, str, Config], list[Launch]] | None = None
    repeat: Callable[[Call, str, Config], Callable[[], None]] | None = None
    prepare: Prepare | None = None
    layouts: tuple[Layout, ...] = (Layout.CONTIGUOUS,)
    features: frozenset[Feature] = frozenset()
    forms: Mapping[Storage, tuple[str, ...]] = field(default_factory=dict)
    workspace: Callable[[Call, str, Config], int] = lambda call, path, config: 0
    consistent: Callable[[str, Workload, Target], Config] | None = None
    carried: Callable[[Config, Workload, Workload, Target], Config] | None = None
    steady: Callable[[Config, Workload, Target], Config] | None = None
    gathers: Callable[[str, Workload], bool] = lambda path, workload: False
    limits: Callable[[str, Workload], list[str]] = lambda path, workload: []
    exp_error: Callable[[str], float] = lambda path: 2.0**-21

    def refusals(
        self,
        path: str,
        workload: Workload,
        target: Target,
        *,
        storage: Storage | None = None,
        lengths: bool = False,
    ) -> list[str]:
        """Say why this kernel cannot run a path on a workload here; [] where it can.

        Args:
            path: A name of ``paths.PATHS``.
            workload: What is to be computed.
            target: The device.
            storage: The form of K and V; None: that of the inputs.
            lengths: Whether requests have lengths of their own, which other layouts imply.
        """
        reasons = self.device_refusals(target)
        if reasons:
            return reasons
        if path not in self.paths:
            reasons.append(f"{self.name} does not run the path {path}")
        elif workload.input_dtype not in PATHS[path].inputs:
            fitting = " or ".join(PATHS[path].inputs)
            reasons.append(f"{path} is for {fitting} inputs, not {workload.input_dtype}")
        if workload.phase not in self.phases:
            served = ", ".join(self.phases)
            reasons.append(f"{self.name} serves {served}, not {workload.phase}")
        if self.phases == (Phase.DECODE,) and workload.q_len > MAX_DECODE_Q_LEN:
            reasons.append(f"{self.name} takes q_len up to {MAX_DECODE_Q_LEN}")
        if workload.input_dtype not in self.input_dtypes:
            reasons.append(f"{self.name} does not take {workload.input_dtype} inputs")
        largest = max(workload.head_dim, workload.head_dim_v)
        if largest > self.max_head_dim:
            reasons.append(f"{self.name} takes head dims up to {self.max_head_dim}, not {largest}")
        reasons += self._form_refusals(path, workload, storage, lengths)
        missing = [name for name in features(workload) if name not in self.features]
        if missing:
            reasons.append(f"{self.name} has no {' and no '.join(missing)}")
        return reasons + self.limits(path, workload)

    def _form_refusals(
        self, path: str, workload: Workload, storage: Storage | None, lengths: bool
    ) -> list[str]:
        """Say why it does not read K and V where and as they lie; [] where it does."""
        reasons = []
        if workload.layout not in self.layouts:
            reasons.append(f"{self.name} takes {', '.join(self.layouts)} K and V, "
                           f"not {workload.layout}")  # fmt: skip
        elif lengths and len(self.layouts) == 1:
            reasons.append(f"{self.name} takes requests of one length only")
        if storage not in (None, workload.input_dtype.value) and path in self.paths:
            if storage not in self.forms:
                reasons.append(f"{self.name} does not read K and V in {storage}")
            elif path not in self.forms[storage]:
                reasons.append(f"{self.name} does not run {path} on K and V in {storage}")
        return reasons

    def device_refusals(self, target: Target) -> list[str]:
        """Say why this kernel cannot run on a device at all; [] where it can."""
        if self.device == "cpu":
            return [] if target.kind == "cpu" else [f"{self.name} runs on CPUs only"]
        if target.kind == "cpu":
            return [f"{self.name} needs a GPU"]
        if self.device == "hopper" and target.arch != "sm_90":
            return [f"{self.name} runs on Hopper (sm_90) only, this is {target.arch}"]
        if target.kind == "cuda" and int(target.arch.removeprefix("sm_")) < 80:
            return [f"{self.name} needs compute capability 8.0 or newer, this is {target.arch}"]
        return []


def features(workload: Workload) -> list[Feature]:
    """What a workload asks for beyond plain attention."""
    asked = {
        Feature.WINDOW: workload.window is not None,
        Feature.SOFT_CAP: workload.soft_cap is not None,
        Feature.SINKS: workload.sinks,
        Feature.MASK: workload.custom_mask,
    }
    return [feature for feature, wanted in asked.items() if wanted]


def converts(path: str, dtype: Dtype) -> bool:
    """Whether a path must round or split inputs; widening to fp32 is exact and is neither."""
    operand = PATHS[path].operand
    if operand in ("fp32", "tf32"):
        return operand == "tf32" and dtype is Dtype.FP32
    return operand != dtype.value


def strides(prefix: str, tensor: torch.Tensor) -> dict[str, int]:
    """The strides of a tensor as arguments ``s{prefix}_b``, ``_h``, ``_t`` and ``_d``."""
    names = [f"s{prefix}_{axis}" for axis in "bhtd"[: tensor.ndim]]
    return dict(zip(names, tensor.stride(), strict=True))


def is_wide(*tensors: torch.Tensor) -> bool:
    """Whether offsets inside one tile could pass 2^31, as with gigantic strides."""
    return any(abs(stride) >= 1 << 22 for tensor in tensors for stride in tensor.stride()[2:])


def run_launches(launches: Sequence[Launch]) -> None:
    """Launch on the current device and stream, in order."""
    for launch in launches:
        launch.function[launch.grid](**launch.arguments)
