"""The pipeline of the Hopper kernels, in Gluon: a producer, and warpgroups that multiply.

A program takes one block of queries of a head after the other. The producer brings tiles of K and V
to shared memory with the bulk tensor copy engine, those of the next block while the last one is
being finished. Each warpgroup, a group for short, takes 64 queries. While it takes the softmax of
tile j, its PV product of tile j - 1 and the others' products keep the tensor cores busy.

Each group has its own copy of the code, and what runs once a block is fetched slowly: keep that
short. Registers are short too: CI looks for spills in the loops.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from autoprec.kernels.blocks import (
    bounded,
    count,
    far_below,
    fp16_scale,
)

ROWS = 64  # queries of a group: what one wgmma instruction takes; kernels name the number


@gluon.jit
def count_items(Q_STARTS, batches, heads, GROUPS: gl.constexpr, MANY: gl.constexpr):
    """Items of requests of unequal numbers of queries."""
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    i = gl.arange(0, MANY, layout)
    first = gl.load(Q_STARTS + i, mask=i < batches, other=0)
    last = gl.load(Q_STARTS + i + 1, mask=i < batches, other=0)
    return gl.sum(gl.cdiv(last - first, 64 * GROUPS), 0) * heads


@gluon.jit
def _added(a, b):
    return a + b


@gluon.jit
def _request_of(item, Q_STARTS, batches, heads, GROUPS: gl.constexpr, MANY: gl.constexpr):
    """The request that an item is of, and its number there."""
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    i = gl.arange(0, MANY, layout)
    first = gl.load(Q_STARTS + i, mask=i < batches, other=0)
    last = gl.load(Q_STARTS + i + 1, mask=i < batches, other=0)
    many = gl.cdiv(last - first, 64 * GROUPS) * heads
    over = gl.associative_scan(many, 0, _added) <= item
    return gl.sum(over.to(gl.int32), 0), item - gl.sum(gl.where(over, many, 0), 0)


@gluon.jit
def place(item, sizes, requests, GROUPS: gl.constexpr, CAUSAL: gl.constexpr,
          BLOCK_KV: gl.constexpr, LENGTHS: gl.constexpr, RAGGED_Q: gl.constexpr,
          MANY: gl.constexpr):  # fmt: skip
    """An item of work: its first row, number of queries, batch, query head and tiles of keys;

    then the row of Q that its request is in and its first query there, its keys and its diagonal.

    Heads come in sections whose keys and values fit the L2 cache; within a section the blocks that
    see the most keys come first, so that no multiprocessor is left with a long one at the end. The
    last section may have heads to spare, of which there are no queries. There is always a tile.
    Where requests have numbers of queries of their own, they come one after another instead.
    """
    (blocks, section, sections, heads, q_heads, q_len, kv_len, diagonal, batches) = sizes
    (KV_LENS, KV_STARTS, PAGES, Q_STARTS) = requests
    q_row, q_first = 0, 0
    if RAGGED_Q:
        batch, within = _request_of(item, Q_STARTS, batches, q_heads, GROUPS, MANY)
        q_first = gl.load(Q_STARTS + batch)
        q_len = gl.load(Q_STARTS + batch + 1) - q_first
        blocks = gl.cdiv(q_len, 64 * GROUPS)
        block = within // q_heads
        q_head = within % q_heads
        rows = q_len
    else:
        within = item % (blocks * section)
        block = within // section
        head = item // (blocks * section) * section + within % section
        batch = head // q_heads
        q_head = head % q_heads
        q_row = batch
        rows = gl.where(head < heads, q_len, 0)
        batch = gl.minimum(batch, batches - 1)
    if LENGTHS:
        kv_len = gl.minimum(gl.load(KV_LENS + batch), kv_len)
        diagonal += kv_len - q_len
    if CAUSAL:
        block = blocks - 1 - block
    tiles = gl.cdiv(kv_len, BLOCK_KV)
    first = block * (64 * GROUPS)
    if CAUSAL:
        seen = gl.maximum(first + 64 * GROUPS + diagonal, 0)
        tiles = gl.minimum(tiles, gl.cdiv(seen, BLOCK_KV))
    return first, rows, batch, q_head, gl.maximum(tiles, 1), q_row, q_first, kv_len, diagonal


@gluon.jit
def _tell(told, placed):
    """Hand an item to the groups; one without queries is the last."""
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    for i in gl.static_range(9):
        told.slice(i, 1).store(gl.full([1], 0, gl.int32, layout) + placed[i])


@gluon.jit
def _hear(told, number: gl.constexpr):
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    return gl.max(told.slice(number, 1).load(layout), 0)


@gluon.jit
def _next(NEXT, items):
    """The item that a program does next; from ``items`` on there is none.

    The first items are the programs' own numbers. Each program asks once more than it is given
    another, and whoever asks last leaves NEXT at zero for the next launch.
    """
    following = items
    if items > gl.num_programs(0):
        asked = gl.atomic_add(NEXT, 1, sem="relaxed")
        if asked == items - 1:
            gl.atomic_xchg(NEXT, 0, sem="relaxed")
        following = gl.num_programs(0) + asked
    return following


@gluon.jit
def _copy_tile(desc, to, bar, at, part_row, kv_head, start, kv_len, PAGES, BLOCK_KV: gl.constexpr,
               PAGE: gl.constexpr):  # fmt: skip
    """Start to bring a tile of keys or values, from wherever its tokens lie."""
    if PAGE == 0:
        tma.async_copy_global_to_shared(desc, [part_row, kv_head, start + at, 0], bar, to)
    else:
        BOX: gl.constexpr = PAGE if PAGE < BLOCK_KV else BLOCK_KV
        for box in gl.static_range(BLOCK_KV // BOX):
            token = at + BOX * box
            page = gl.load(PAGES + start + token // PAGE, mask=token < kv_len, other=0)
            tma.async_copy_global_to_shared(
                desc, [page, kv_head, token % PAGE, 0], bar, to.slice(BOX * box, BOX, 2)
            )


@gluon.jit
def _emptied(v_s, first, tail, PARTS: gl.constexpr, BLOCK_KV: gl.constexpr,
             BLOCK_DV: gl.constexpr):  # fmt: skip
    """Values from row ``tail`` of a tile on become zero: what lies there may be NaN."""
    layout: gl.constexpr = gl.BlockedLayout([1, 1, 1, 8], [1, 1, 4, 8], [1, 1, 4, 1],
                                            [3, 2, 1, 0])  # fmt: skip
    inner: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(1, gl.SliceLayout(3, layout)))
    for part in gl.static_range(PARTS):
        for eight in gl.static_range(BLOCK_KV // 8):
            if 8 * eight + 8 > tail:
                few = v_s.index(first + part).slice(8 * eight, 8, 2)
                rows = 8 * eight + gl.arange(0, 8, inner)
                real = (rows < tail)[None, None, :, None]
                few.store(gl.where(real, few.load(layout), 0.0))
    fence_async_shared()


@gluon.jit
def _bring(placed, fed, before, mended, common, GROUPS: gl.constexpr, PERSISTENT: gl.constexpr,
           CAUSAL: gl.constexpr, PARTS: gl.constexpr, BLOCK_KV: gl.constexpr,
           BLOCK_D: gl.constexpr, BLOCK_DV: gl.constexpr, STAGES: gl.constexpr,
           Q_COMES: gl.constexpr, LENGTHS: gl.constexpr, RAGGED_Q: gl.constexpr,
           RAGGED_KV: gl.constexpr, PAGE: gl.constexpr):  # fmt: skip
    """Bring the tiles of one item; the next item, and tiles mended so far."""
    (q_desc, k_desc, v_desc, q_s, k_s, v_s, q_full, q_empty, k_full, k_empty, v_full, v_empty,
     raw, told, told_full, told_empty, NEXT, items, sizes, requests, batches,
     group) = common  # fmt: skip
    (KV_LENS, KV_STARTS, PAGES, Q_STARTS) = requests
    block, rows, batch, q_head, tiles, q_row, q_first, kv_len, diagonal = placed
    kv_head = q_head // group
    kv_row, start = batch, 0
    if RAGGED_KV or PAGE > 0:
        kv_row = 0
        start = gl.load(KV_STARTS + batch)
    following = items
    mended = gl.to_tensor(mended)
    for j in range(tiles):
        stage = (before + j) % STAGES
        parity = (((before + j) // STAGES) & 1) ^ 1
        at = j * BLOCK_KV
        mbarrier.wait(k_empty.index(stage), parity)
        mbarrier.expect(k_full.index(stage), 2 * PARTS * BLOCK_KV * BLOCK_D)
        for part in gl.static_range(PARTS):
            _copy_tile(k_desc, k_s.index(PARTS * stage + part), k_full.index(stage), at,
                       part * batches + kv_row, kv_head, start, kv_len, PAGES, BLOCK_KV,
                       PAGE)  # fmt: skip
        if Q_COMES and j == 0:
            for one in gl.static_range(GROUPS):
                mbarrier.wait(q_empty.index(one), (fed & 1) ^ 1)
                mbarrier.expect(q_full.index(one), q_desc.block_type.nbytes)
                tma.async_copy_global_to_shared(
                    q_desc, [q_row, q_head, q_first + block + 64 * one, 0], q_full.index(one),
                    q_s.index(one),
                )  # fmt: skip
        mbarrier.wait(v_empty.index(stage), parity)
        ends = LENGTHS and at + BLOCK_KV > kv_len
        if ends:
            mbarrier.expect(raw, 2 * PARTS * BLOCK_KV * BLOCK_DV)
            for part in gl.static_range(PARTS):
                _copy_tile(v_desc, v_s.index(PARTS * stage + part), raw, at,
                           part * batches + kv_row, kv_head, start, kv_len, PAGES, BLOCK_KV,
                           PAGE)  # fmt: skip
            mbarrier.wait(raw, mended & 1)
            mended += 1
            _emptied(v_s, PARTS * stage, kv_len - at, PARTS, BLOCK_KV, BLOCK_DV)
            mbarrier.arrive(v_full.index(stage), count=1)
        else:
            mbarrier.expect(v_full.index(stage), 2 * PARTS * BLOCK_KV * BLOCK_DV)
            for part in gl.static_range(PARTS):
                _copy_tile(v_desc, v_s.index(PARTS * stage + part), v_full.index(stage), at,
                           part * batches + kv_row, kv_head, start, kv_len, PAGES, BLOCK_KV,
                           PAGE)  # fmt: skip
        if PERSISTENT and j == gl.minimum(tiles, 2) - 1:  # early, for the answer takes a while
            following = _next(NEXT, items)
    return following, mended


@gluon.jit
def produce(common, GROUPS: gl.constexpr, PERSISTENT: gl.constexpr, CAUSAL: gl.constexpr,
            PARTS: gl.constexpr, BLOCK_KV: gl.constexpr, BLOCK_D: gl.constexpr,
            BLOCK_DV: gl.constexpr, STAGES: gl.constexpr, Q_COMES: gl.constexpr,
            LENGTHS: gl.constexpr, RAGGED_Q: gl.constexpr, RAGGED_KV: gl.constexpr,
            PAGE: gl.constexpr, MANY: gl.constexpr):  # fmt: skip
    """Keep STAGES tiles of K and V, in all their parts, on their way to shared memory.

    PERSISTENT: items are asked for, and told to the groups, until there are none.
    Q_COMES: queries need no conversion and are brought as well.
    """
    (q_desc, k_desc, v_desc, q_s, k_s, v_s, q_full, q_empty, k_full, k_empty, v_full, v_empty,
     raw, told, told_full, told_empty, NEXT, items, sizes, requests, batches,
     group) = common  # fmt: skip
    item = gl.program_id(0)
    if PERSISTENT:
        turn, mended = 0, 0
        before = 0  # tiles of earlier items
        while item < items:
            placed = place(item, sizes, requests, GROUPS, CAUSAL, BLOCK_KV, LENGTHS, RAGGED_Q, MANY)
            if placed[1] > 0:
                mbarrier.wait(told_empty, (turn & 1) ^ 1)
                _tell(told, placed)
                mbarrier.arrive(told_full, count=1)
                item, mended = _bring(placed, turn, before, mended, common, GROUPS, True, CAUSAL,
                                      PARTS, BLOCK_KV, BLOCK_D, BLOCK_DV, STAGES, Q_COMES, LENGTHS,
                                      RAGGED_Q, RAGGED_KV, PAGE)  # fmt: skip
                turn += 1
                before += placed[4]
            else:
                item = _next(NEXT, items)
        mbarrier.wait(told_empty, (turn & 1) ^ 1)
        _tell(told, (0, 0, 0, 0, 0, 0, 0, 0, 0))
        mbarrier.arrive(told_full, count=1)
    else:
        if item < items:
            placed = place(item, sizes, requests, GROUPS, CAUSAL, BLOCK_KV, LENGTHS, RAGGED_Q, MANY)
            if placed[1] > 0:
                _bring(placed, 0, 0, 0, common, GROUPS, False, CAUSAL, PARTS, BLOCK_KV, BLOCK_D,
                       BLOCK_DV, STAGES, Q_COMES, LENGTHS, RAGGED_Q, RAGGED_KV,
                       PAGE)  # fmt: skip


@gluon.jit
def _flat(tile, ROWS: gl.constexpr, COLUMNS: gl.constexpr):
    """A tile of the copy engine, [1, 1, ROWS, COLUMNS], as a matrix."""
    return tile.reshape([ROWS, COLUMNS])


@gluon.jit
def _multiply_qk(q_s, k_s, stage, j, zero, GROUP: gl.constexpr, PARTS: gl.constexpr,
                 BLOCK_KV: gl.constexpr, BLOCK_D: gl.constexpr):  # fmt: skip
    """Start q kᵀ, the smallest products first; a wgmma group each."""
    k_hi = _flat(k_s.index(PARTS * stage), BLOCK_KV, BLOCK_D).permute([1, 0])
    # j is below 2^30: this is as if the place hung on it, or 16 addresses would stay in registers
    here = PARTS * GROUP + (j >> 30)
    q_hi = _flat(q_s.index(here), 64, BLOCK_D)
    if PARTS == 2:
        k_lo = _flat(k_s.index(PARTS * stage + 1), BLOCK_KV, BLOCK_D).permute([1, 0])
        q_lo = _flat(q_s.index(here + 1), 64, BLOCK_D)
        s = warpgroup_mma(q_lo, k_hi, zero, use_acc=False, is_async=True)
        s = warpgroup_mma(q_hi, k_lo, s, is_async=True)
        return warpgroup_mma(q_hi, k_hi, s, is_async=True)
    else:
        return warpgroup_mma(q_hi, k_hi, zero, use_acc=False, is_async=True)


@gluon.jit
def _multiply_pv(p, v_s, stage, o, FRESH: gl.constexpr, PARTS: gl.constexpr,
                 BLOCK_KV: gl.constexpr, BLOCK_DV: gl.constexpr):  # fmt: skip
    """Start o + p v, or p v from a fresh accumulator; a wgmma group for each product."""
    v_hi = _flat(v_s.index(PARTS * stage), BLOCK_KV, BLOCK_DV)
    if len(p) == 2:
        o = warpgroup_mma(p[1], v_hi, o, use_acc=not FRESH, is_async=True)
        if PARTS == 2:
            v_lo = _flat(v_s.index(PARTS * stage + 1), BLOCK_KV, BLOCK_DV)
            o = warpgroup_mma(p[0], v_lo, o, is_async=True)
        return warpgroup_mma(p[0], v_hi, o, is_async=True)
    else:
        return warpgroup_mma(p[0], v_hi, o, use_acc=not FRESH, is_async=True)


@gluon.jit
def _finish_pv(started, p, following):
    """Wait for a PV product; the registers of the next tile's probabilities wait with it."""
    if len(p) == 2:
        o, p_hi, p_lo, following = warpgroup_mma_wait(0, deps=[started, p[0], p[1], following])
    else:
        o, p_hi, following = warpgroup_mma_wait(0, deps=[started, p[0], following])
    return o, following


@gluon.jit
def _exponent(x):
    return x.to(gl.int32, bitcast=True) >> 23


@gluon.jit
def _power_of_two(exponent):
    return ((127 + exponent) << 23).to(gl.float32, bitcast=True)


@gluon.jit
def _count_far_below(V_INVERSE, tiles, LOST, P_PARTS: gl.constexpr):
    """Count a head where a tile of its values lies too far below its largest."""
    layout: gl.constexpr = gl.BlockedLayout([4], [32], [4], [0])  # every warp has all of it
    largest = gl.zeros([128], gl.float32, layout)
    least = gl.full([128], float("inf"), gl.float32, layout)
    for first in range(0, tiles, 128):
        j = first + gl.arange(0, 128, layout)
        inverse = gl.load(V_INVERSE + j, mask=j < tiles, other=0.0)
        largest = gl.maximum(largest, inverse)
        least = gl.minimum(least, gl.where(inverse > 2.0**-126, inverse, float("inf")))
    count(far_below(gl.min(least, 0), gl.max(largest, 0), P_PARTS).to(gl.int32), LOST)


@gluon.jit
def _values_unit(inverse, unit, SCALED: gl.constexpr):
    """Make the largest factor that V's tiles lost so far the unit of the output.

    Returns the new unit, and log2 of the old one and of the tile's own factor in units of it. The
    tile's probabilities are lowered by the latter, so that no element of the output needs a
    product of its own; the less so below 2^-64 (``_count_far_below``).
    """
    sunk = 0
    lowered = 0
    if SCALED:
        larger = gl.maximum(unit, inverse)
        sunk = _exponent(unit) - _exponent(larger)
        lowered = gl.maximum(_exponent(inverse) - _exponent(larger), -64)
        unit = larger
    return unit, sunk, lowered


@gluon.jit
def _last_seen(numbers, first_diagonal, kv_len, rows: gl.constexpr, CAUSAL: gl.constexpr):
    """The last key that each of a group's rows sees; below 0 where it sees none."""
    last = gl.full([64], 0, gl.int32, rows) + (kv_len - 1)
    if CAUSAL:
        last = gl.minimum(last, first_diagonal + numbers.slice(0, 64).load(rows))
    return last


@gluon.jit
def _seen(s, numbers, first_diagonal, kv_len, first_key, CAUSAL: gl.constexpr):
    """Products of keys that a row does not see, minus infinity.

    Numbers of rows and columns come from shared memory: the compiler would compute them before
    the loop and keep them in registers, of which there are none left.
    """
    last = _last_seen(numbers, first_diagonal, kv_len, gl.SliceLayout(1, s.type.layout), CAUSAL)
    columns = numbers.slice(0, s.shape[1]).load(gl.SliceLayout(0, s.type.layout))
    return gl.where((first_key + columns)[None, :] <= last[:, None], s, float("-inf"))


@gluon.jit
def _coarse(slope):
    """The least power of two that is no less."""
    bits = (slope.to(gl.int32, bitcast=True) + 0x007FFFFF) & 0x7F800000
    return bits.to(gl.float32, bitcast=True)


@gluon.jit
def _softmax(s, above, l, slope, sunk, lowered, SCALED: gl.constexpr, SHIFT: gl.constexpr):
    """The probabilities of a tile, up to a power of two, and what the output shrinks by.

    Args:
        above: Of each row, what its base-2 logits are taken against: a whole number, so that what
            shrinks does so by a power of two, exactly. It is the least one at which the row's
            largest probability comes out at 1 or below; below 2^15.97 for fp16, which holds that.
        slope: What makes base-2 logits of products, of each row.

    From 2^24 on fp32 has no whole logits left, and a product that is not rounded may lie far above
    the largest one as it was rounded. There the slope is ``_coarse``, which rounds none, and the
    output is that of logits up to twice as far apart; ``_write`` has the LSE right.
    """
    top = gl.max(s, 1)
    largest = top * slope
    huge = gl.abs(largest) >= 2.0**24
    slope = gl.where(huge, _coarse(slope), slope)
    least = largest
    if SHIFT > 0:  # two units in the last place more, for what rounding makes of large logits
        least = (largest + gl.abs(largest) * 2.0**-22) - SHIFT
    least = gl.maximum(gl.where(huge, top * slope, least), -3.4028234663852886e38)  # the lowest
    now_above = gl.maximum(above, least)
    shrink = gl.exp2(above - now_above)
    if SCALED:
        p = gl.exp2(s * slope[:, None] + (lowered.to(gl.float32) - now_above)[:, None])
        l = l * shrink + gl.sum(p, 1) * _power_of_two(-lowered)
        shrink = gl.exp2(above - now_above + sunk.to(gl.float32))
    else:
        p = gl.exp2(s * slope[:, None] - now_above[:, None])
        l = l * shrink + gl.sum(p, 1)
    return p, now_above, l, shrink


@gluon.jit
def _slope(scale, k_inverse, qk_scale):
    """What makes base-2 logits of a tile's products, neither 0 nor infinity: -inf stays -inf."""
    return gl.minimum(gl.maximum(bounded(scale * k_inverse) * qk_scale, 2.0**-126), 2.0**127)


@gluon.jit
def _split_p(p, dtype: gl.constexpr, layout: gl.constexpr, P_PARTS: gl.constexpr):
    hi = p.to(dtype)
    if P_PARTS == 2:
        lo = (p - hi.to(gl.float32)).to(dtype)
        return gl.convert_layout(hi, layout), gl.convert_layout(lo, layout)
    else:
        return (gl.convert_layout(hi, layout),)


@gluon.jit
def _times(acc, shrink):
    """The output, each row times a factor."""
    return acc * gl.convert_layout(shrink, gl.SliceLayout(1, acc.type.layout))[:, None]


@gluon.jit
def _across(rows, d, stride, WIDE: gl.constexpr):
    """Addresses of the elements d of rows; WIDE: rows lie without gaps, in whole 16 bytes.

    A partition is not told what the launch knows of strides and addresses.
    """
    if WIDE:
        elements: gl.constexpr = 128 // rows.dtype.element_ty.primitive_bitwidth
        return gl.max_contiguous(gl.multiple_of(rows + d[None, :], [1, 16]), [1, elements])
    else:
        return rows + d.to(gl.int64)[None, :] * stride


@gluon.jit
def _lost_to_zero(x, inverse):
    """Whether a row has an element that is not zero and becomes zero in fp16, once it is scaled.

    Of twice the bits less one, of which those of zero are the largest. 2^-25 is half of fp16's
    least; elements are compared as they were, since their product with the scale may be zero.
    """
    bits = x.to(gl.uint32, bitcast=True)
    most = (inverse * 2.0**-25).to(gl.uint32, bitcast=True)
    return gl.min(bits + bits - 1, 1) < most + most


@gluon.jit
def _load_q(Q, q_s, LOST, first_row, rows_left, stride_t, stride_d, GROUP: gl.constexpr,
            PARTS: gl.constexpr, NEGATE: gl.constexpr, SCALED: gl.constexpr, COUNT: gl.constexpr,
            HEAD_DIM: gl.constexpr, BLOCK_D: gl.constexpr, WIDE: gl.constexpr):  # fmt: skip
    """Bring a group's queries to shared memory in their parts; the factor that each row lost."""
    elements: gl.constexpr = 128 // Q.dtype.element_ty.primitive_bitwidth
    # eight lanes a row: few rows a thread, so that what is done for a row takes little code
    layout: gl.constexpr = gl.BlockedLayout([1, elements], [4, 8], [4, 1], [1, 0])
    rows = gl.arange(0, 64, gl.SliceLayout(1, layout))
    d = gl.arange(0, BLOCK_D, gl.SliceLayout(0, layout))
    at = Q + (first_row + rows).to(gl.int64)[:, None] * stride_t
    inside = (rows < rows_left)[:, None] & (d < HEAD_DIM)[None, :]
    q = gl.load(_across(at, d, stride_d, WIDE), mask=inside, other=0.0)
    inverse = gl.full([64], 1.0, gl.float32, gl.SliceLayout(1, layout))
    if SCALED:
        q = q.to(gl.float32)
        largest = gl.max(gl.abs(q), 1)  # of what is no NaN
        scale, inverse = fp16_scale(gl.where(largest < float("inf"), largest, 0.0))
        if COUNT:
            count(gl.max(_lost_to_zero(q, inverse).to(gl.int32), 0), LOST)
        q = q * scale[:, None]
    if NEGATE:
        q = -q
    hi = q.to(q_s.dtype)
    _flat(q_s.index(PARTS * GROUP), 64, BLOCK_D).store(hi)
    if PARTS == 2:
        # of an infinity it is NaN, as is the output of its row in any case
        lo = (q - hi.to(gl.float32)).to(q_s.dtype)
        _flat(q_s.index(PARTS * GROUP + 1), 64, BLOCK_D).store(lo)
    fence_async_shared()
    return inverse


@gluon.jit
def _tiles(own, whole, before, state, q_s, k_s, v_s, q_empty, k_full, k_empty, v_full, v_empty,
           zero_s, zero_o, scale, qk_scale, K_INVERSE, V_INVERSE, scales, numbers, first_diagonal,
           kv_len, p_layout: gl.constexpr, GROUP: gl.constexpr, CAUSAL: gl.constexpr,
           PARTS: gl.constexpr, P_PARTS: gl.constexpr, SCALED: gl.constexpr, SHIFT: gl.constexpr,
           BLOCK_KV: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_DV: gl.constexpr,
           STAGES: gl.constexpr, Q_COMES: gl.constexpr):  # fmt: skip
    """Tiles 1 ≤ j < own; on entry the probabilities of tile 0 wait for their PV.

    Where P is split, a tile's PV product starts from a fresh accumulator and is added in fp32:
    tensor cores truncate as they accumulate.
    """
    above, l, unit, shrink, acc, p = state
    FRESH: gl.constexpr = P_PARTS == 2
    IN_FLIGHT: gl.constexpr = PARTS + 1 if P_PARTS == 2 else 1  # groups of a PV product
    for j in range(1, own):
        # j as it is, but the compiler does not know and keeps no 64 bits of it
        tile = j + (kv_len >> 30)
        now = before + tile
        stage = now % STAGES
        last = (now - 1) % STAGES
        k_inverse, v_inverse = 1.0, 1.0
        if SCALED:  # loaded while the products run
            k_inverse = gl.load(K_INVERSE + (scales + tile))
            v_inverse = gl.load(V_INVERSE + (scales + tile))
        s_started = _multiply_qk(q_s, k_s, stage, tile, zero_s, GROUP, PARTS, BLOCK_KV,
                                 BLOCK_D)  # fmt: skip
        mbarrier.wait(v_full.index(last), ((now - 1) // STAGES) & 1)
        o_started = _multiply_pv(p, v_s, last, zero_o if FRESH else acc, FRESH, PARTS, BLOCK_KV,
                                 BLOCK_DV)  # fmt: skip
        s = warpgroup_mma_wait(IN_FLIGHT, deps=[s_started])
        mbarrier.arrive(k_empty.index(stage), count=1)
        if Q_COMES:
            mbarrier.arrive(q_empty.index(GROUP), count=1, pred=tile == own - 1)
        if tile >= whole:  # a branch and not a loop of its own, whose code would be fetched as well
            s = _seen(s, numbers, first_diagonal, kv_len, tile * BLOCK_KV, CAUSAL)
        unit, sunk, lowered = _values_unit(v_inverse, unit, SCALED)
        slope = _slope(scale, k_inverse, qk_scale)
        weight, above, l, row_shrink = _softmax(s, above, l, slope, sunk, lowered, SCALED, SHIFT)
        # Waiting for the next K here opens a basic block, so that ptxas cannot hoist the wait for
        # the PV product above the softmax that is to run beside it.
        mbarrier.wait(k_full.index((now + 1) % STAGES), ((now + 1) // STAGES) & 1,
                      pred=tile + 1 < own)  # fmt: skip
        o, weight = _finish_pv(o_started, p, weight)
        p = _split_p(weight, k_s.dtype, p_layout, P_PARTS)
        mbarrier.arrive(v_empty.index(last), count=1)
        if FRESH:
            acc = _times(acc, shrink) + o
            shrink = row_shrink
        else:
            acc = _times(o, row_shrink)
    return above, l, unit, shrink, acc, p


@gluon.jit
def _attend(tiles, own, whole, before, q_s, k_s, v_s, q_empty, k_full, k_empty, v_full, v_empty,
            scale, qk_scale, K_INVERSE, V_INVERSE, scales, numbers, first_diagonal, kv_len,
            s_layout: gl.constexpr, o_layout: gl.constexpr, GROUP: gl.constexpr,
            CAUSAL: gl.constexpr, PARTS: gl.constexpr, P_PARTS: gl.constexpr,
            SCALED: gl.constexpr, SHIFT: gl.constexpr, BLOCK_KV: gl.constexpr,
            BLOCK_D: gl.constexpr, BLOCK_DV: gl.constexpr, STAGES: gl.constexpr,
            Q_COMES: gl.constexpr):  # fmt: skip
    """A group's queries against their own tiles, of which the first whole need no mask.

    Returns the output before its division, in units of the last factor; what logits were taken
    against, the sum of probabilities, and that factor.
    """
    p_layout: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=o_layout, k_width=2)
    row: gl.constexpr = gl.SliceLayout(1, s_layout)
    FRESH: gl.constexpr = P_PARTS == 2
    zero_s = gl.zeros([64, BLOCK_KV], gl.float32, s_layout)
    zero_o = gl.zeros([64, BLOCK_DV], gl.float32, o_layout)
    acc = gl.zeros([64, BLOCK_DV], gl.float32, o_layout)
    above = gl.full([64], -3.4028234663852886e38, gl.float32, row)
    l = gl.zeros([64], gl.float32, row)
    unit = 1.0
    if own > 0:
        first = before % STAGES
        mbarrier.wait(k_full.index(first), (before // STAGES) & 1)
        k_inverse = 1.0
        if SCALED:
            k_inverse = gl.load(K_INVERSE + scales)
            unit = gl.load(V_INVERSE + scales)
        s_started = _multiply_qk(q_s, k_s, first, before, zero_s, GROUP, PARTS, BLOCK_KV, BLOCK_D)
        unit, sunk, lowered = _values_unit(unit, unit, SCALED)
        s = warpgroup_mma_wait(0, deps=[s_started])
        mbarrier.arrive(k_empty.index(first), count=1)
        if Q_COMES:
            mbarrier.arrive(q_empty.index(GROUP), count=1, pred=own == 1)
        if whole < 1:
            s = _seen(s, numbers, first_diagonal, kv_len, 0, CAUSAL)
        slope = _slope(scale, k_inverse, qk_scale)
        weight, above, l, shrink = _softmax(s, above, l, slope, sunk, lowered, SCALED, SHIFT)
        p = _split_p(weight, k_s.dtype, p_layout, P_PARTS)
        mbarrier.wait(k_full.index((before + 1) % STAGES), ((before + 1) // STAGES) & 1,
                      pred=own > 1)  # fmt: skip
        state = (above, l, unit, shrink, acc, p)
        state = _tiles(own, whole, before, state, q_s, k_s, v_s, q_empty, k_full, k_empty, v_full,
                       v_empty, zero_s, zero_o, scale, qk_scale, K_INVERSE, V_INVERSE, scales,
                       numbers, first_diagonal, kv_len, p_layout, GROUP, CAUSAL, PARTS, P_PARTS,
                       SCALED, SHIFT, BLOCK_KV, BLOCK_D, BLOCK_DV, STAGES, Q_COMES)  # fmt: skip
        above, l, unit, shrink, acc, p = state
        last = before + own - 1
        mbarrier.wait(v_full.index(last % STAGES), (last // STAGES) & 1)
        o = warpgroup_mma_wait(0, deps=[
            _multiply_pv(p, v_s, last % STAGES, zero_o if FRESH else acc, FRESH, PARTS, BLOCK_KV,
                         BLOCK_DV)
        ])  # fmt: skip
        mbarrier.arrive(v_empty.index(last % STAGES), count=1)
        acc = _times(acc, shrink) + o if FRESH else o
    else:
        if Q_COMES:
            mbarrier.arrive(q_empty.index(GROUP), count=1)
    for j in range(own, tiles):  # those that the other group alone sees
        stage = (before + j) % STAGES
        parity = ((before + j) // STAGES) & 1
        mbarrier.wait(k_full.index(stage), parity)
        mbarrier.arrive(k_empty.index(stage), count=1)
        mbarrier.wait(v_full.index(stage), parity)
        mbarrier.arrive(v_empty.index(stage), count=1)
    return acc, above, l, unit


@gluon.jit
def _write(acc, above, l, unit, numbers, first_diagonal, kv_len, first_row, rows_left, O, o_desc,
           o_s, o_at, LSE, so_t, so_d, sl_t, qk_scale, CAUSAL: gl.constexpr, SCALED: gl.constexpr,
           HEAD_DIM_V: gl.constexpr, WITH_LSE: gl.constexpr,
           O_GOES: gl.constexpr, WIDE: gl.constexpr):  # fmt: skip
    """Divide rows of output by their sums and write them, and the log-sum-exp.

    A branch that is hardly ever taken is not fetched, where a choice for each element would be.
    """
    o_row: gl.constexpr = gl.SliceLayout(1, acc.type.layout)
    rows = gl.arange(0, 64, o_row)
    dv = gl.arange(0, acc.shape[1], gl.SliceLayout(0, acc.type.layout))
    factor = gl.convert_layout(1.0 / l, o_row)
    # from 2^24 on logits were taken by the coarse slope
    lse = gl.where(gl.abs(above) < 2.0**24, above, above * (qk_scale / _coarse(qk_scale)))
    lse += gl.log2(l)
    blind = kv_len < 1  # whether some row sees no key
    if CAUSAL:
        blind = gl.minimum(kv_len, first_diagonal + 1) < 1
    if blind:
        sees_any = _last_seen(numbers, first_diagonal, kv_len, o_row, CAUSAL) >= 0
        acc = gl.where(sees_any[:, None], acc, 0.0)
        factor = gl.where(sees_any, factor, 0.0)
        lse = gl.where(gl.convert_layout(sees_any, lse.type.layout), lse, float("-inf"))
    if SCALED:
        if unit < 2.0**-60:  # the product of both factors may be subnormal
            acc *= unit
        else:
            factor *= unit
    out = (acc * factor[:, None]).to(O.dtype.element_ty)
    if O_GOES:  # what lies beyond the rows is left out
        tma.store_wait(0)
        _flat(o_s, out.shape[0], out.shape[1]).store(out)
        fence_async_shared()
        if rows_left > 0:
            tma.async_copy_shared_to_global(o_desc, o_at, o_s)
    else:
        at = O + (first_row + rows).to(gl.int64)[:, None] * so_t
        inside = (rows < rows_left)[:, None] & (dv < HEAD_DIM_V)[None, :]
        gl.store(_across(at, dv, so_d, WIDE), out, mask=inside)
    if WITH_LSE:
        l_rows = gl.arange(0, 64, l.type.layout)
        lse_at = LSE + (first_row + l_rows).to(gl.int64) * sl_t
        gl.store(lse_at, lse, mask=l_rows < rows_left)


@gluon.jit
def _start(row, head, first, s_b, s_h, s_t):
    """Where a head of a request begins in Q, O or LSE."""
    first = gl.to_tensor(first)
    row = gl.to_tensor(row)
    return row.to(gl.int64) * s_b + head.to(gl.int64) * s_h + first.to(gl.int64) * s_t


@gluon.jit
def _serve(placed, fed, before, common, GROUP: gl.constexpr, GROUPS: gl.constexpr,
           CAUSAL: gl.constexpr, PARTS: gl.constexpr, P_PARTS: gl.constexpr, SCALED: gl.constexpr,
           NEGATE: gl.constexpr, SHIFT: gl.constexpr, HEAD_DIM: gl.constexpr,
           HEAD_DIM_V: gl.constexpr, BLOCK_KV: gl.constexpr, BLOCK_D: gl.constexpr,
           BLOCK_DV: gl.constexpr, STAGES: gl.constexpr, WITH_LSE: gl.constexpr,
           COUNT: gl.constexpr, Q_COMES: gl.constexpr, Q_WIDE: gl.constexpr, O_GOES: gl.constexpr,
           O_WIDE: gl.constexpr):  # fmt: skip
    """A group's queries of one item, from block + 64 * GROUP on."""
    (Q, O, o_desc, o_s, LSE, numbers, q_s, k_s, v_s, q_full, q_empty, k_full, k_empty, v_full,
     v_empty, sq_b, sq_h, sq_t, sq_d, so_b, so_h, so_t, so_d, sl_b, sl_h, sl_t, told, told_full,
     told_empty, items, sizes, requests, group, qk_scale, K_INVERSE, V_INVERSE,
     LOST) = common  # fmt: skip
    (blocks, section, sections, heads, q_heads, most_q, most_kv, unaligned, batches) = sizes
    block, rows, batch, q_head, tiles, q_row, q_first, kv_len, diagonal = placed
    s_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_KV, 16])
    o_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_DV, 16])
    row: gl.constexpr = gl.SliceLayout(1, s_layout)
    first_row = block + 64 * GROUP
    rows_left = rows - first_row
    all_tiles = gl.cdiv(most_kv, BLOCK_KV)
    scales = (batch * (q_heads // group) + q_head // group) * all_tiles
    if Q_COMES:
        inverse = gl.full([64], 1.0, gl.float32, row)
        mbarrier.wait(q_full.index(GROUP), fed & 1)
    else:
        q_at = Q + _start(q_row, q_head, q_first, sq_b, sq_h, sq_t)
        inverse = _load_q(q_at, q_s, LOST, first_row, rows_left, sq_t, sq_d, GROUP, PARTS,
                          NEGATE, SCALED, COUNT, HEAD_DIM, BLOCK_D, Q_WIDE)  # fmt: skip
        inverse = gl.convert_layout(inverse, row)
    if COUNT and GROUP == 0:
        if (block == 0) & (rows > 0):  # once a head
            _count_far_below(V_INVERSE + scales, gl.cdiv(kv_len, BLOCK_KV), LOST, P_PARTS)
    first_diagonal = first_row + diagonal
    own = tiles  # of which some row of the group sees a key
    whole = kv_len // BLOCK_KV  # of which every row sees all keys
    if CAUSAL:
        own = gl.minimum(own, gl.cdiv(gl.maximum(first_diagonal + 64, 0), BLOCK_KV))
        whole = gl.minimum(whole, gl.maximum(first_diagonal + 1, 0) // BLOCK_KV)
    own = gl.where(rows_left > 0, own, 0)
    acc, above, l, unit = _attend(
        tiles, own, whole, before, q_s, k_s, v_s, q_empty, k_full, k_empty, v_full, v_empty,
        inverse, qk_scale, K_INVERSE, V_INVERSE, scales, numbers, first_diagonal, kv_len,
        s_layout, o_layout, GROUP, CAUSAL, PARTS, P_PARTS, SCALED, SHIFT, BLOCK_KV, BLOCK_D,
        BLOCK_DV, STAGES, Q_COMES,
    )  # fmt: skip
    o_at = O + _start(q_row, q_head, q_first, so_b, so_h, so_t)
    l_at = LSE + _start(q_row, q_head, q_first, sl_b, sl_h, sl_t)
    _write(
        acc, above, l, unit, numbers, first_diagonal, kv_len, first_row, rows_left, o_at, o_desc,
        o_s.index(GROUP), [batch, q_head, first_row, 0], l_at, so_t, so_d, sl_t, qk_scale, CAUSAL,
        SCALED, HEAD_DIM_V, WITH_LSE, O_GOES, O_WIDE,
    )  # fmt: skip


@gluon.jit
def consume(common, GROUP: gl.constexpr, GROUPS: gl.constexpr, PERSISTENT: gl.constexpr,
            CAUSAL: gl.constexpr, PARTS: gl.constexpr, P_PARTS: gl.constexpr, SCALED: gl.constexpr,
            NEGATE: gl.constexpr, SHIFT: gl.constexpr, HEAD_DIM: gl.constexpr,
            HEAD_DIM_V: gl.constexpr, BLOCK_KV: gl.constexpr, BLOCK_D: gl.constexpr,
            BLOCK_DV: gl.constexpr, STAGES: gl.constexpr, WITH_LSE: gl.constexpr,
            COUNT: gl.constexpr, Q_COMES: gl.constexpr, Q_WIDE: gl.constexpr, O_GOES: gl.constexpr,
            O_WIDE: gl.constexpr, LENGTHS: gl.constexpr, RAGGED_Q: gl.constexpr,
            MANY: gl.constexpr):  # fmt: skip
    """One group: ROWS queries of every item of its program."""
    (Q, O, o_desc, o_s, LSE, numbers, q_s, k_s, v_s, q_full, q_empty, k_full, k_empty, v_full,
     v_empty, sq_b, sq_h, sq_t, sq_d, so_b, so_h, so_t, so_d, sl_b, sl_h, sl_t, told, told_full,
     told_empty, items, sizes, requests, group, qk_scale, K_INVERSE, V_INVERSE,
     LOST) = common  # fmt: skip
    if PERSISTENT:
        turn = 0
        before = 0  # tiles of earlier items
        mbarrier.wait(told_full, 0)
        rows = _hear(told, 1)
        while rows > 0:
            placed = (_hear(told, 0), rows, _hear(told, 2), _hear(told, 3), _hear(told, 4),
                      _hear(told, 5), _hear(told, 6), _hear(told, 7), _hear(told, 8))  # fmt: skip
            mbarrier.arrive(told_empty, count=1)
            _serve(placed, turn, before, common, GROUP, GROUPS, CAUSAL, PARTS, P_PARTS, SCALED,
                   NEGATE, SHIFT, HEAD_DIM, HEAD_DIM_V, BLOCK_KV, BLOCK_D, BLOCK_DV, STAGES,
                   WITH_LSE, COUNT, Q_COMES, Q_WIDE, O_GOES, O_WIDE)  # fmt: skip
            turn += 1
            before += placed[4]
            mbarrier.wait(told_full, turn & 1)
            rows = _hear(told, 1)
    else:
        item = gl.program_id(0)
        if item < items:
            placed = place(item, sizes, requests, GROUPS, CAUSAL, BLOCK_KV, LENGTHS, RAGGED_Q, MANY)
            if placed[1] > 0:
                _serve(placed, 0, 0, common, GROUP, GROUPS, CAUSAL, PARTS, P_PARTS, SCALED,
                       NEGATE, SHIFT, HEAD_DIM, HEAD_DIM_V, BLOCK_KV, BLOCK_D, BLOCK_DV, STAGES,
                       WITH_LSE, COUNT, Q_COMES, Q_WIDE, O_GOES, O_WIDE)  # fmt: skip
    if O_GOES:
        tma.store_wait(0)
