"""What a kernel is handed, what it says of itself, and how its launches are run or compiled."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from autoprec.paths import PATHS
from autoprec.types import MAX_DECODE_Q_LEN, Config, Dtype, Phase, Workload

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
        arguments: By name: tensors, numbers, constexprs, and num_warps, num_stages.
    """

    function: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Planes:
    """Keys or values in the parts that a path multiplies.

    Attributes:
        data: ``[parts, batch, heads, tokens, head_dim]`` in the path's operand type, contiguous,
            tokens and head_dim padded with zeros as the kernel asked.
        inverse: fp32 ``[batch, heads, blocks of tokens]``, the factor that the elements of a block
            lost before they were rounded; None where they were not scaled.
        launches: What fills both.
    """

    data: torch.Tensor
    inverse: torch.Tensor | None
    launches: list[Launch]


@dataclass(frozen=True)
class Prepared:
    """K and V as one kernel, path and configuration reads them; made once, for many calls."""

    k: Planes
    v: Planes

    @property
    def launches(self) -> list[Launch]:
        """What fills K's planes and V's."""
        return self.k.launches + self.v.launches

    @property
    def nbytes(self) -> int:
        """Bytes that the planes and their scales take."""
        tensors = (self.k.data, self.v.data, self.k.inverse, self.v.inverse)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


@dataclass(frozen=True, kw_only=True)
class Call:
    """One attention call, validated: tensors of any strides on one device.

    Attributes:
        q: ``[batch, q_heads, q_len, head_dim]``, fp32, bf16 or fp16.
        k: ``[batch, kv_heads, kv_len, head_dim]``, q's dtype.
        v: ``[batch, kv_heads, kv_len, head_dim_v]``, q's dtype.
        out: ``[batch, q_heads, q_len, head_dim_v]``, fp32, bf16 or fp16; written.
        lse: ``[batch, q_heads, q_len]``, fp32, log2 of the sum of exp of the scaled logits;
            written. None where it is not wanted.
        diagonal: Query i sees keys 0 to i + diagonal; None: it sees all. kv_len - q_len aligns
            the mask bottom-right, 0 upper-left. A row that sees no key gives O = 0, LSE = -inf.
        sm_scale: Factor on the logits.
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
    prepared: Prepared | None = None
    lost: torch.Tensor | None = None
    only_if: torch.Tensor | None = None

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
        prepare: ``(k, v, path, config, lost, only_if)`` → K and V as the kernel reads them, not
            filled yet; None where it reads them as they are.
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
    prepare: Prepare | None = None
    limits: Callable[[str, Workload], list[str]] = lambda path, workload: []
    exp_error: Callable[[str], float] = lambda path: 2.0**-21

    def refusals(self, path: str, workload: Workload, target: Target) -> list[str]:
        """Say why this kernel cannot run a path on a workload here; [] where it can.

        Args:
            path: A name of ``paths.PATHS``.
            workload: What is to be computed.
            target: The device.
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
        if workload.window is not None or workload.soft_cap is not None:
            reasons.append(f"{self.name} has no sliding window and no soft cap")
        return reasons + self.limits(path, workload)

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
