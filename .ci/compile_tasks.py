"""What ``compile_kernels.py`` compiles of each kernel for each chip that it claims.

Every path and input type, with head dims that take turns, so that over the chips each path meets
each head dim, in the configuration that must fit everywhere, a kernel's first. For one chip the
others too, and each kernel as a guard launches it. Then, in a few paths, K and V in pages, in two
planes and ragged, with a window, a soft cap and sinks, and what appends to such a cache.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from autoprec.kernels.interface import Feature, Kernel, Target
from autoprec.paths import PATHS
from autoprec.types import Config, Dtype, Layout, Mask, Phase, Storage, Workload

# Shared memory that a block may use, as documented for each chip; multiprocessors.
CHIPS = {
    "sm_80": (166912, 108),
    "sm_89": (101376, 128),
    "sm_90": (232448, 132),
    "sm_100": (232448, 148),
    "sm_120": (101376, 170),
    "gfx942": (65536, 304),
}
HEAD_DIMS = (64, 128, 256)
EVERY_CONFIG_ON = "sm_90"


@dataclass(frozen=True)
class Task:
    """One configuration of a kernel and path for a chip.

    Attributes:
        first: It must fit and not spill.
        storage: K and V lie in that form, and what appends to it is compiled too. With a custom
            mask, what merges states is.
        guarded: As it is launched behind another path, with what a guard launches beside it.
    """

    kernel: str
    path: str
    workload: Workload
    config: Config
    chip: str
    first: bool
    storage: Storage | None = None
    guarded: bool = False

    def __str__(self) -> str:
        """One line for people."""
        config = " ".join(f"{key}={value}" for key, value in self.config.items())
        form = f" from {self.storage}" if self.storage else ""
        return f"{self.kernel} {self.path}{form} on {self.chip}, {self.workload}, {config}"


def target_of(chip: str) -> Target:
    """The target that a chip's name stands for."""
    shared, units = CHIPS[chip]
    kind = "hip" if chip.startswith("gfx") else "cuda"
    return Target(kind=kind, arch=chip, shared_bytes=shared, units=units)


def workload_of(kernel: Kernel, input_dtype: Dtype, head_dim: int) -> Workload:
    """A workload that a kernel serves."""
    decode = kernel.phases == (Phase.DECODE,)
    return Workload(
        phase=Phase.DECODE if decode else Phase.PREFILL,
        batch=8 if decode else 1,
        q_len=1 if decode else 4096,
        kv_len=8192 if decode else 4096,
        q_heads=32,
        kv_heads=8,
        head_dim=head_dim,
        head_dim_v=head_dim,
        mask=Mask.CAUSAL,
        input_dtype=input_dtype,
        out_dtype=input_dtype,
    )


def tasks_of(kernel: Kernel, chip: str) -> Iterator[Task]:
    """What is compiled of a kernel for a chip."""
    target = target_of(chip)
    turn = list(CHIPS).index(chip)
    for path in kernel.paths:
        inputs = [dtype for dtype in PATHS[path].inputs if dtype in kernel.input_dtypes]
        for dtype in inputs:
            workloads = [workload_of(kernel, dtype, dim) for dim in HEAD_DIMS]
            dims = [
                workload.head_dim
                for workload in workloads
                if not kernel.refusals(path, workload, target)
            ]
            workload = workload_of(kernel, dtype, dims[turn % len(dims)])
            turn += 1
            config = kernel.configs(path, workload, target)[0]
            yield Task(kernel.name, path, workload, config, chip, True)
        if chip == EVERY_CONFIG_ON:
            tiles = {}  # those that differ in more than the size of a split, which is no constexpr
            for workload in [workload_of(kernel, dtype, 128) for dtype in inputs]:
                for config in kernel.configs(path, workload, target):
                    tiles.setdefault(str({**config, "split": 0}), (workload, config))
            for workload, config in list(tiles.values())[1:]:
                yield Task(kernel.name, path, workload, config, chip, False)
            if path in ("bf16", "bf16x3"):
                workload = workload_of(kernel, inputs[0], 128)
                config = kernel.configs(path, workload, target)[0]
                yield Task(kernel.name, path, workload, config, chip, False, guarded=True)


def paged(page_size: int) -> dict[str, Any]:
    """What a workload with pages has."""
    return {"layout": Layout.PAGED, "page_size": page_size}


def variants_of(kernel: Kernel, chip: str) -> Iterator[Task]:
    """What is compiled of a kernel that takes more than plain attention: few, and all different."""
    if Layout.PAGED not in kernel.layouts:
        return
    features = {"window": 1024, "soft_cap": 30.0, "sinks": True}
    ragged = {"batch": 8, "layout": Layout.RAGGED}
    short = {"q_len": 1024, "kv_len": 1024}
    cases: list[tuple[str, Dtype, Storage | None, int, dict[str, Any]]] = [
        ("fp16x3", Dtype.FP32, Storage.PLANES, 128, paged(16) | features),
        ("bf16", Dtype.BF16, None, 128, paged(1)),
    ]
    if chip == EVERY_CONFIG_ON:
        cases += [
            ("fp16", Dtype.FP32, Storage.PLANES, 128, paged(64)),
            ("tf32x3", Dtype.FP32, None, 128, paged(128) | features),
            ("bf16", Dtype.BF16, None, 128, ragged),
        ]
    if kernel.device == "hopper":  # two to four groups of queries, and features in few registers
        cases += [
            ("bf16", Dtype.BF16, None, 64, {}),
            ("bf16", Dtype.BF16, None, 64, short),
            ("bf16", Dtype.BF16, None, 64, short | ragged),
            ("fp16", Dtype.FP16, None, 64, paged(16) | features),
            ("bf16", Dtype.BF16, None, 64, ragged | features),
            ("bf16", Dtype.BF16, None, 128, features),
            ("bf16", Dtype.BF16, None, 128, {"phase": Phase.APPEND, "q_len": 256} | features),
            ("bf16p2", Dtype.BF16, None, 128, paged(16) | {"window": 1024}),
            ("fp16x3", Dtype.FP32, None, 128, ragged),
        ]
    for path, dtype, storage, head_dim, more in cases:
        if path not in kernel.paths:
            continue
        workload = replace(workload_of(kernel, dtype, head_dim), **more)
        config = kernel.configs(path, workload, target_of(chip))[0]
        yield Task(kernel.name, path, workload, config, chip, True, storage)
        if kernel.steady is not None and storage is None:
            config = kernel.steady(config, workload, target_of(chip))
            yield Task(kernel.name, path, workload, config, chip, True)
    if Feature.MASK in kernel.features:  # its tile lies beside the others: no budget of spills
        workload = replace(workload_of(kernel, Dtype.FP32, 128), custom_mask=True, mask=Mask.FULL,
                           layout=Layout.PAGED, page_size=16)  # fmt: skip
        config = kernel.configs("fp16x3", workload, target_of(chip))[0]
        yield Task(kernel.name, "fp16x3", workload, config, chip, False)
