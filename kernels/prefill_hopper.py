"""Prefill and append on Hopper: K and V in 16-bit parts, straight to the tensor cores.

The folder ``hopper`` has the pipeline; here are its launches, and what it can do.
"""

import functools
from typing import Any

import torch
import triton

from autoprec.kernels.arguments import lengths, logits
from autoprec.kernels.blocks import P_SHIFT_FP16
from autoprec.kernels.hopper.configs import configs, consistent, limits
from autoprec.kernels.hopper.program import launch_of
from autoprec.kernels.hopper.tensors import (
    PAGES,
    descriptor,
    gathers,
    in_16_bytes,
    padded,
    page_of,
    takes,
)
from autoprec.kernels.interface import (
    DTYPES,
    Call,
    Feature,
    Kernel,
    Launch,
    Prepared,
    converts,
    run_launches,
    strides,
)
from autoprec.kernels.planes import convert, rows
from autoprec.paths import PATHS
from autoprec.types import Config, Layout, Phase, Storage

_ROWS = 64  # queries of a group: what one wgmma instruction takes; kernels name the number
_SHARED_BYTES = 225 << 10  # for tiles; the rest is for barriers
# Registers of a thread at first, of a group's, and of the producer's; by the number of groups. What
# is left is the first group's.
_REGISTERS = {2: (168, 240, 24), 3: (128, 160, 24), 4: (96, 112, 24)}
_REGISTERS_OF_REQUESTS = 224, 56  # where the producer has more to do
_L2_BYTES = 16 << 20  # of which keys and values of the heads at work should fit


def _prepare(
    k: torch.Tensor,
    v: torch.Tensor,
    path: str,
    config: Config,
    lost: torch.Tensor | None = None,
    only_if: torch.Tensor | None = None,
) -> Prepared:
    block = int(config["block_kv"])
    return convert(k, v, path, block, dim_multiple=8, lost=lost, only_if=only_if)


def _passed(call: Call, path: str, config: Config) -> Prepared | None:
    """K and V by a pass of their own; None where the copy engine can bring them as they are."""
    kept = not converts(path, DTYPES[call.k.dtype]) and call.halves is None
    alone = PATHS[path].parts == 1  # nothing stands for a second part but zeros
    if (
        kept
        and alone
        and call.k.numel()
        and page_of(call) in PAGES
        and takes(call.k)
        and takes(call.v)
    ):
        return None
    return call.prepared or convert(
        call.k, call.v, path, int(config["block_kv"]), dim_multiple=8, lost=call.lost,
        only_if=call.only_if, requests=call.requests, halves=call.halves,
    )  # fmt: skip


def _launches(call: Call, path: str, config: Config) -> list[Launch]:
    q_heads, head_dim = call.q.shape[1], call.q.shape[3]
    kv_heads, head_dim_v = call.v.shape[1], call.v.shape[3]
    requests = call.requests
    ragged_q = requests is not None and requests.q_starts is not None
    scheme = PATHS[path]
    groups = min(max(int(config["block_q"]) // _ROWS, 2), 4)
    block_kv, stages = int(config["block_kv"]), max(int(config["num_stages"]), 2)
    block_d, block_dv = padded(head_dim), padded(head_dim_v)
    passed = _passed(call, path, config)
    k, v, k_inverse, v_inverse = call.k[None], call.v[None], None, None
    page, box = page_of(call), block_kv
    if passed is not None:
        k, v, k_inverse, v_inverse = (
            passed.k.data, passed.v.data, passed.k.inverse, passed.v.inverse,
        )  # fmt: skip
    elif page:
        box = min(page, block_kv)
    k_desc, v_desc = descriptor(k, box, block_d), descriptor(v, box, block_dv)
    negate = call.sm_scale < 0
    q_desc = None
    if not converts(path, DTYPES[call.q.dtype]) and takes(call.q) and not negate:
        q_desc = descriptor(call.q[None], _ROWS, block_d)
    o_desc = None
    tiles_bytes = 2 * scheme.parts * stages * block_kv * (block_d + block_dv)
    rows_bytes = 2 * groups * _ROWS * (scheme.parts * block_d + block_dv)
    narrow = call.out.element_size() == 2 and takes(call.out)
    # ragged rows are not for the copy engine, which would write those of the next request too
    if narrow and not ragged_q and tiles_bytes + rows_bytes <= _SHARED_BYTES:
        o_desc = descriptor(call.out[None], _ROWS, block_dv)
    at_first, of_group, of_producer = _REGISTERS[groups]
    if requests is not None and scheme.p_parts == 1 and groups == 2:
        of_group, of_producer = _REGISTERS_OF_REQUESTS
    heads = call.batch * q_heads
    section = _section(call, scheme.parts)
    blocks, sections = (
        triton.cdiv(call.max_q_len, groups * _ROWS),
        triton.cdiv(heads, section),
    )
    items = programs = blocks * section * sections
    per_sm = int(config.get("programs_per_sm", 1 if ragged_q else 0))
    if per_sm:
        programs = min(per_sm * _multiprocessors(call.q.device), items)
    counted = programs < items or ragged_q  # of ragged queries the device counts the items
    arguments: dict[str, Any] = {
        "Q": call.q, "O": call.out, "LSE": call.lse_place,
        "q_desc": q_desc, "k_desc": k_desc, "v_desc": v_desc, "o_desc": o_desc,
        "K_INVERSE": k_inverse, "V_INVERSE": v_inverse, "LOST": call.lost,
        "ONLY_IF": call.only_if,
        "NEXT": _counter(call.q.device, used=counted),
        **strides("q", call.q), **strides("o", call.out), **strides("l", call.lse_place),
        "blocks": blocks,
        "section": section,
        "sections": sections,
        "heads": heads,
        "q_heads": q_heads,
        "group": q_heads // kv_heads,
        "batches": call.batch,
        "fitting": _fitting(call, scheme.parts),
        **lengths(call), **logits(call),
        "GROUPS": groups,
        "REGISTERS": of_group,
        "PRODUCER_REGISTERS": of_producer,
        "PERSISTENT": per_sm > 0,
        "WITH_SINKS": call.sinks is not None,
        "PARTS": scheme.parts,
        "P_PARTS": scheme.p_parts,
        "SCALED_Q": scheme.operand == "fp16" and converts(path, DTYPES[call.q.dtype]),
        "SCALED": k_inverse is not None,
        "NEGATE": negate,
        "SHIFT": P_SHIFT_FP16 if scheme.operand == "fp16" else 0,
        "HEAD_DIM": head_dim,
        "HEAD_DIM_V": head_dim_v,
        "BLOCK_KV": block_kv,
        "BLOCK_D": block_d,
        "BLOCK_DV": block_dv,
        "STAGES": stages,
        "WITH_LSE": call.lse is not None,
        "COUNT": call.lost is not None,
        "Q_COMES": q_desc is not None,
        "Q_WIDE": q_desc is None and in_16_bytes(call.q),
        "O_GOES": o_desc is not None,
        "O_WIDE": o_desc is None and in_16_bytes(call.out),
        "LENGTHS": requests is not None,
        "RAGGED_Q": ragged_q,
        # of what K and V begin at a request's kv_starts: of tokens, or of pages brought together
        "RAGGED_KV": 0 if rows(requests, page) else page or 1,
        "PAGE": page if passed is None else 0,
        "num_warps": 4,
        "maxnreg": at_first,
    }  # fmt: skip
    launches = [] if passed is None or call.prepared is not None else passed.launches
    return [*launches, launch_of(programs, arguments, counted=counted)]


def _section(call: Call, parts: int) -> int:
    """Heads (over the batch) whose keys and values fit the L2 cache together."""
    heads = call.batch * call.q.shape[1]
    if call.diagonal is None:
        return 1
    group = call.q.shape[1] // call.v.shape[1]
    together = max(1, _fitting(call, parts) // call.max_kv_len) * group
    sections = triton.cdiv(heads, together)
    return int(triton.cdiv(heads, sections))  # as many in the last section, or nearly so


def _fitting(call: Call, parts: int) -> int:
    """Keys of a head that fit the L2 cache, with their values; 0 where heads take turns anyway."""
    if call.diagonal is None:
        return 0
    return _L2_BYTES // (2 * parts * (call.q.shape[3] + call.v.shape[3]))


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    """How many programs run at once: each takes a multiprocessor."""
    if device.type != "cuda":
        return 132
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _counter(device: torch.device, *, used: bool) -> torch.Tensor:
    """A zeroed int32 for a launch, or one that stands in where it is neither read nor written.

    It is not kept for other launches: what is kept may come to lie in memory that a graph believes
    its own, and a counter that does not begin at zero has blocks left out.
    """
    if used:
        return torch.zeros(1, dtype=torch.int32, device=device)
    return _unused(device)


@functools.cache
def _unused(device: torch.device) -> torch.Tensor:
    return torch.empty(1, dtype=torch.int32, device=device)


def _run(call: Call, path: str, config: Config) -> None:
    run_launches(_launches(call, path, config))


_PATHS = ("fp16x3", "bf16x3", "bf16", "bf16p2", "fp16", "fp16p2")

KERNELS = (
    Kernel(
        name="hopper-prefill",
        device="hopper",
        paths=_PATHS,
        phases=(Phase.PREFILL, Phase.APPEND),
        architectures=("sm_90",),
        max_head_dim=256,
        converts=converts,
        configs=configs,
        run=_run,
        launches=_launches,
        prepare=_prepare,
        layouts=tuple(Layout),
        features=frozenset({Feature.WINDOW, Feature.SOFT_CAP, Feature.SINKS}),
        forms={
            **dict.fromkeys((Storage.FP32, Storage.BF16, Storage.FP16), _PATHS),
            Storage.PLANES: ("fp16", "fp16x3"),
        },
        consistent=consistent,
        gathers=gathers,
        limits=limits,
    ),
)
