"""Decode: few queries against a long cache, the keys split over programs and merged after.

The query heads that share a KV head are packed into one tile, so that K and V are read once.
Operands are rounded in registers: a pass of its own would cost what the kernel itself costs.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from autoprec.kernels import decode_configs, overlap
from autoprec.kernels.arguments import lengths, logits, stored
from autoprec.kernels.blocks import P_SHIFT_FP16, closed, count, far_below, query_parts
from autoprec.kernels.decode_configs import MAX_ROWS
from autoprec.kernels.interface import (
    Call,
    Feature,
    Kernel,
    Launch,
    converts,
    run_launches,
    strides,
)
from autoprec.kernels.merge import merge
from autoprec.kernels.overlap import tell
from autoprec.kernels.tiles import base, request, sees_any, split_of, tiles
from autoprec.paths import PATHS
from autoprec.types import Config, Layout, Phase, Storage


@triton.jit(do_not_specialize=["splits", "q_len", "kv_len", "diagonal", "split", "window_left",
                               "sl_b", "sl_h", "sl_t"])  # fmt: skip
def _split(Q, K, V, O, M, L, K_INVERSE, V_INVERSE, Q_STARTS, KV_LENS, KV_STARTS, PAGES, SINKS,
           LOST, ONLY_IF, sq_b, sq_h, sq_t, sq_d, sk_b, sk_h, sk_t, sk_d, sv_b, sv_h, sv_t, sv_d,
           so_b, so_h, so_t, so_d, sl_b, sl_h, sl_t, si_b, si_h, si_t, k_plane, v_plane,
           kv_heads, q_len, kv_len, diagonal, window_left, splits, split, qk_scale, cap_in, cap_out,
           OPERAND: tl.constexpr, PARTS: tl.constexpr, P_PARTS: tl.constexpr,
           FORM: tl.constexpr, PAGE: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
           CAP: tl.constexpr, SCALED_Q: tl.constexpr, SCALED_KV: tl.constexpr,
           NEGATE: tl.constexpr, SHIFT: tl.constexpr, GROUP: tl.constexpr,
           HEAD_DIM: tl.constexpr, HEAD_DIM_V: tl.constexpr, BLOCK_ROWS: tl.constexpr,
           BLOCK_KV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
           WIDE: tl.constexpr, PARTIAL: tl.constexpr, WITH_LSE: tl.constexpr,
           EVEN: tl.constexpr, COUNT: tl.constexpr, TELLS: tl.constexpr):  # fmt: skip
    """Keys part*split ≤ j < (part+1)*split; grid (splits * row blocks * kv_heads * batch,).

    PARTIAL writes acc, m and l of the split for merge.py; otherwise the one split is all, and O
    and M are the call's out and lse. q_len and kv_len are bounds where requests have their own.
    """
    if PARTIAL:  # merge.py's launch may come, which waits for the end of this one
        tell(TELLS)
    if ONLY_IF is not None:
        if tl.load(ONLY_IF) == 0:
            return
    row_blocks = tl.cdiv(q_len * GROUP, BLOCK_ROWS)
    part = tl.program_id(0) % splits
    row_block = tl.program_id(0) // splits % row_blocks
    kv_head = (tl.program_id(0) // splits // row_blocks % kv_heads).to(tl.int64)
    batch = (tl.program_id(0) // splits // row_blocks // kv_heads).to(tl.int64)
    start = KV_STARTS
    if KV_STARTS is not None:  # volatile: nobody puts it off till behind the lengths
        start = tl.load(KV_STARTS + batch, volatile=True)
    q_row, q_first, its_q_len, kv_len, diagonal = request(
        batch, Q_STARTS, KV_LENS, q_len, kv_len, diagonal
    )
    rows = row_block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)  # token by token, heads within
    token = rows // GROUP
    head = kv_head * GROUP + rows % GROUP
    real = rows < its_q_len * GROUP
    d, dv = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_DV)
    if WIDE:
        d, dv = d.to(tl.int64), dv.to(tl.int64)
    row = (q_first + token).to(tl.int64)
    q_at = Q + q_row * sq_b + head[:, None] * sq_h + row[:, None] * sq_t
    # under way while the lengths, which say where this split ends, are
    q = tl.load(q_at + d.to(tl.int64)[None, :] * sq_d, mask=real[:, None] & (d < HEAD_DIM)[None, :],
                other=0.0)  # fmt: skip
    if EVEN:
        split = split_of(kv_len, splits, split)
    first = part * split
    last = tl.minimum(first + split, kv_len)
    if WINDOW:  # tiles that no row sees are left out; where tiles begin does not move
        least_seen = tl.maximum(row_block * BLOCK_ROWS // GROUP + diagonal - window_left, 0)
        first = tl.maximum(first, least_seen // BLOCK_KV * BLOCK_KV)
    if Q_STARTS is not None:
        if row_block * BLOCK_ROWS >= its_q_len * GROUP:
            return
    if PARTIAL and (WINDOW or KV_LENS is not None):
        if first >= last:  # merge.py knows, and leaves it out
            return

    q, scale = query_parts(q, LOST, OPERAND, PARTS, SCALED_Q, NEGATE, COUNT)

    m = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    l = tl.zeros([BLOCK_ROWS], tl.float32)
    acc = tl.zeros([BLOCK_ROWS, BLOCK_DV], tl.float32)
    state = (m, l, acc, tl.full([], 0.0, tl.float32), tl.full([], float("inf"), tl.float32))
    if FORM == "halves":
        K_INVERSE = base(K_INVERSE, batch, kv_head, start, si_b, si_h, si_t, PAGE)
        V_INVERSE = base(V_INVERSE, batch, kv_head, start, si_b, si_h, si_t, PAGE)
    if PAGE > 0:
        PAGES += start
    memory = (base(K, batch, kv_head, start, sk_b, sk_h, sk_t, PAGE),
              base(V, batch, kv_head, start, sv_b, sv_h, sv_t, PAGE), K_INVERSE, V_INVERSE,
              PAGES, LOST, k_plane, v_plane, sk_b, sk_t, sk_d,
              sv_b, sv_t, sv_d, si_b, si_t)  # fmt: skip
    position = token + diagonal
    m, l, acc, largest, least = tiles(
        q, scale, state, memory, (last, position, window_left, cap_in, cap_out), None, first,
        last, qk_scale, OPERAND, PARTS, P_PARTS, FORM, PAGE, SCALED_Q, SCALED_KV, True, True,
        CAUSAL, WINDOW, CAP, "none", SHIFT, HEAD_DIM, HEAD_DIM_V, BLOCK_KV, BLOCK_D, BLOCK_DV,
        WIDE, COUNT, False,
    )  # fmt: skip

    l *= 2.0**-SHIFT
    if not SCALED_KV and FORM != "halves":
        acc *= 2.0**-SHIFT
    elif COUNT:
        count(far_below(least, largest, P_PARTS).to(tl.int32), LOST)
    q_heads = kv_heads * GROUP
    value_inside = real[:, None] & (dv < HEAD_DIM_V)[None, :]
    if PARTIAL:
        place = ((batch * q_heads + head) * q_len + token) * splits + part
        tl.store(O + place[:, None] * HEAD_DIM_V + dv[None, :], acc, mask=value_inside)
        tl.store(M + place, m, mask=real)
        tl.store(L + place, l, mask=real)
    else:
        some = sees_any(position, window_left, kv_len, CAUSAL, WINDOW, KV_LENS is not None)
        sink = m
        if SINKS is not None:
            sink = tl.load(SINKS + head, mask=real, other=0.0)
        shrink, total, lse = closed(l, m, qk_scale, some, sink, SINKS is not None)
        if SINKS is not None:
            acc *= shrink[:, None]
        out = tl.where(some[:, None], acc / total[:, None], 0.0)
        o_at = O + q_row * so_b + head[:, None] * so_h + row[:, None] * so_t
        o_at += dv.to(tl.int64)[None, :] * so_d
        tl.store(o_at, out.to(O.dtype.element_ty), mask=value_inside)
        if WITH_LSE:
            tl.store(M + q_row * sl_b + head * sl_h + row * sl_t, lse, mask=real)


def _split_of(config: Config) -> int:
    """Keys of a split: whole tiles, so that tiles begin at the same places in all of them.

    Where a configuration says how many ``splits`` there are, it is the least that one is made of.
    """
    block_kv = int(config["block_kv"])
    return int(triton.cdiv(int(config["split"]), block_kv)) * block_kv


def _stages(call: Call, config: Config) -> int:
    """The stages to compile with, so that as many tiles are under way as ``config`` says.

    Through pages, a tile waits for its page numbers, which are on their way a tile earlier still;
    Triton divides the stages it is given between the two.
    """
    stages = int(config["num_stages"])
    paged = call.requests is not None and call.requests.pages is not None
    return 2 * stages - 1 if paged else stages


def _splits(call: Call, config: Config) -> int:
    return int(config.get("splits") or triton.cdiv(call.max_kv_len, _split_of(config)))


def _workspace(call: Call, path: str, config: Config) -> int:
    """Elements of the partial outputs, maxima and sums."""
    splits = _splits(call, config)
    return _padded(_partial_rows(call, splits)) * (call.v.shape[3] + 2) if splits > 1 else 0


def _partial_rows(call: Call, splits: int) -> int:
    return call.batch * call.q.shape[1] * call.max_q_len * splits


def _padded(rows: int) -> int:
    """Rows whose fp32 numbers end at a multiple of 16 bytes: to Triton, what begins elsewhere is
    another kernel, and a cache that grows would have it compiled in the midst of its calls.
    """
    return -(-rows // 4) * 4


def _partials(call: Call, splits: int, elements: int) -> tuple[Tensor, Tensor, Tensor]:
    """acc, m and l, in the call's workspace where that is large enough."""
    space = call.workspace
    if space is None or space.numel() < elements:
        space = torch.empty(elements, dtype=torch.float32, device=call.q.device)
    shape = (call.batch, call.q.shape[1], call.max_q_len, splits)
    rows, head_dim_v = _partial_rows(call, splits), call.v.shape[3]
    padded = _padded(rows)
    acc, m, l = space[:elements].split([padded * head_dim_v, padded, padded])
    return acc[: rows * head_dim_v].view(*shape, -1), m[:rows].view(shape), l[:rows].view(shape)


def _launches(call: Call, path: str, config: Config) -> list[Launch]:
    head_dim, head_dim_v = call.q.shape[3], call.v.shape[3]
    kv_heads, group = call.k.shape[1], call.q.shape[1] // call.k.shape[1]
    scheme = PATHS[path]
    splits = _splits(call, config)
    rows = call.max_q_len * group
    block_rows = int(config.get("block_rows") or min(MAX_ROWS, triton.next_power_of_2(rows)))
    block_rows = max(16, block_rows)
    acc, m, l = call.out, call.lse_place, None
    if splits > 1:
        acc, m, l = _partials(call, splits, _workspace(call, path, config))
    arguments: dict[str, Any] = {
        "Q": call.q, "O": acc, "M": m, "L": l, "LOST": call.lost, "ONLY_IF": call.only_if,
        **strides("q", call.q), **strides("o", call.out), **strides("l", call.lse_place),
        **stored(call, path), **lengths(call), **logits(call),
        "kv_heads": kv_heads,
        "splits": splits,
        "split": _split_of(config),
        "EVEN": "splits" in config,
        "OPERAND": scheme.operand,
        "PARTS": scheme.parts,
        "P_PARTS": scheme.p_parts,
        "NEGATE": call.sm_scale < 0,
        "SHIFT": P_SHIFT_FP16 if scheme.operand == "fp16" else 0,
        "GROUP": group,
        "HEAD_DIM": head_dim,
        "HEAD_DIM_V": head_dim_v,
        "BLOCK_ROWS": block_rows,
        "BLOCK_KV": config["block_kv"],
        "BLOCK_D": max(16, triton.next_power_of_2(head_dim)),
        "BLOCK_DV": max(16, triton.next_power_of_2(head_dim_v)),
        "PARTIAL": splits > 1,
        "COUNT": call.lost is not None,
        **overlap.first(overlap.on_device(call.q.device)),
        "WITH_LSE": call.lse is not None,
        "num_warps": config["num_warps"],
        "num_stages": _stages(call, config),
    }  # fmt: skip
    row_blocks = triton.cdiv(rows, block_rows)
    launches = [Launch(_split, (splits * row_blocks * kv_heads * call.batch,), arguments)]
    if splits > 1:
        launches.append(merge(call, acc, m, l, splits, _split_of(config), "splits" in config))
    return launches


def _run(call: Call, path: str, config: Config) -> None:
    run_launches(_launches(call, path, config))


def _repeat(call: Call, path: str, config: Config) -> Callable[[], None]:
    return functools.partial(run_launches, _launches(call, path, config))


KERNELS = (
    Kernel(
        name="triton-decode",
        device="triton",
        paths=tuple(PATHS),
        phases=(Phase.DECODE,),
        architectures=("sm_80", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942"),
        converts=converts,
        configs=decode_configs.configs,
        run=_run,
        launches=_launches,
        repeat=_repeat,
        layouts=tuple(Layout),
        features=frozenset(Feature) - {Feature.MASK},
        forms={
            **dict.fromkeys((Storage.FP32, Storage.BF16, Storage.FP16), tuple(PATHS)),
            Storage.PLANES: ("fp16", "fp16x3"),
        },
        workspace=_workspace,
        consistent=decode_configs.consistent,
        carried=decode_configs.carried,
        steady=decode_configs.steady,
    ),
)
