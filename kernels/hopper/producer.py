"""The producer of a program: it brings tiles of K and V, and queries that need no conversion.

The bulk tensor copy engine brings them to shared memory, those of the next item while the groups
finish the last one.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma

from autoprec.kernels.hopper.items import count_items, next_item, place, tell


@gluon.jit
def _pages(at, start, kv_len, PAGES, BLOCK_KV: gl.constexpr, PAGE: gl.constexpr):
    """The pages of the tile that begins at a key, a number for each of them.

    They are loaded together, and a tile ahead: the loads take longer than the copies.
    """
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [gl.num_warps()], [0])
    i = gl.arange(0, 32, layout)
    inside = (i < gl.cdiv(BLOCK_KV, PAGE)) & (at + i * PAGE < kv_len)
    return gl.load(PAGES + start + at // PAGE + i, mask=inside, other=0)


@gluon.jit
def _each(pages_s, BLOCK_KV: gl.constexpr, PAGE: gl.constexpr):
    """The pages of a tile, one by one."""
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [gl.num_warps()], [0])
    pages = ()
    for box in gl.static_range(BLOCK_KV // PAGE if PAGE < BLOCK_KV else 1):
        pages = pages + (gl.max(pages_s.slice(box, 1).load(layout), 0),)  # type: ignore[assignment]
    return pages


@gluon.jit
def _copy_tile(desc, to, bar, at, part_row, kv_head, start, pages, BLOCK_KV: gl.constexpr,
               PAGE: gl.constexpr):  # fmt: skip
    """Start to bring a tile of keys or values, from wherever its tokens lie."""
    if PAGE == 0:
        tma.async_copy_global_to_shared(desc, [part_row, kv_head, start + at, 0], bar, to)
    else:
        BOX: gl.constexpr = PAGE if PAGE < BLOCK_KV else BLOCK_KV
        for box in gl.static_range(BLOCK_KV // BOX):
            tma.async_copy_global_to_shared(
                desc, [pages[box], kv_head, at % PAGE, 0], bar, to.slice(BOX * box, BOX, 2)
            )


@gluon.jit
def _emptied(v_s, first, tail, PARTS: gl.constexpr, BLOCK_KV: gl.constexpr):
    """Values from row ``tail`` of a tile on become zero: what lies there may be NaN."""
    layout: gl.constexpr = gl.BlockedLayout([1, 1, 1, 8], [1, 1, 4, 8], [1, 1, 1, 1],
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
def _bring(placed, turn, before, mended, items, NEXT, memory, form: gl.constexpr):
    """Bring the tiles of one item; the next item, and tiles mended so far, by which v_raw turns."""
    (q_desc, k_desc, v_desc, q_s, k_s, v_s, q_full, q_empty, k_full, k_empty, v_full, v_empty,
     v_raw, pages_s, KV_STARTS, PAGES, batches, group) = memory  # fmt: skip
    first_query, rows, batch, q_head, tiles, q_row, q_first, kv_len, diagonal, first_key = placed
    kv_head = q_head // group
    kv_row, start, rows_of_part = batch, 0, batches
    if form.RAGGED_KV > 0 or form.PAGE > 0:
        kv_row, rows_of_part = 0, 1
        start = gl.load(KV_STARTS + batch) * (1 if form.PAGE > 0 else form.RAGGED_KV)
    end = first_key + kv_len
    if form.PAGE > 0:
        following_pages = _pages(first_key, start, end, PAGES, form.BLOCK_KV, form.PAGE)
    following = items
    mended = gl.to_tensor(mended)
    for j in range(tiles):
        stage = (before + j) % form.STAGES
        parity = (((before + j) // form.STAGES) & 1) ^ 1
        at = first_key + j * form.BLOCK_KV
        pages = 0
        if form.PAGE > 0:
            pages_s.store(following_pages)
            pages = _each(pages_s, form.BLOCK_KV, form.PAGE)
            following_pages = _pages(
                at + form.BLOCK_KV, start, end, PAGES, form.BLOCK_KV, form.PAGE
            )
        mbarrier.wait(k_empty.index(stage), parity)
        mbarrier.expect(k_full.index(stage), 2 * form.PARTS * form.BLOCK_KV * form.BLOCK_D)
        for part in gl.static_range(form.PARTS):
            _copy_tile(k_desc, k_s.index(form.PARTS * stage + part), k_full.index(stage), at,
                       part * rows_of_part + kv_row, kv_head, start, pages, form.BLOCK_KV,
                       form.PAGE)  # fmt: skip
        if form.Q_COMES and j == 0:
            for one in gl.static_range(form.GROUPS):
                mbarrier.wait(q_empty.index(one), (turn & 1) ^ 1)
                mbarrier.expect(q_full.index(one), q_desc.block_type.nbytes)
                tma.async_copy_global_to_shared(
                    q_desc, [q_row, q_head, q_first + first_query + 64 * one, 0], q_full.index(one),
                    q_s.index(one),
                )  # fmt: skip
        mbarrier.wait(v_empty.index(stage), parity)
        tail = kv_len - j * form.BLOCK_KV
        ends = form.LENGTHS and tail < form.BLOCK_KV
        if ends:
            mbarrier.expect(v_raw, 2 * form.PARTS * form.BLOCK_KV * form.BLOCK_DV)
            for part in gl.static_range(form.PARTS):
                _copy_tile(v_desc, v_s.index(form.PARTS * stage + part), v_raw, at,
                           part * rows_of_part + kv_row, kv_head, start, pages, form.BLOCK_KV,
                           form.PAGE)  # fmt: skip
            mbarrier.wait(v_raw, mended & 1)
            mended += 1
            _emptied(v_s, form.PARTS * stage, tail, form.PARTS, form.BLOCK_KV)
            mbarrier.arrive(v_full.index(stage), count=1)
        else:
            mbarrier.expect(v_full.index(stage), 2 * form.PARTS * form.BLOCK_KV * form.BLOCK_DV)
            for part in gl.static_range(form.PARTS):
                _copy_tile(v_desc, v_s.index(form.PARTS * stage + part), v_full.index(stage), at,
                           part * rows_of_part + kv_row, kv_head, start, pages, form.BLOCK_KV,
                           form.PAGE)  # fmt: skip
        if form.PERSISTENT and j == gl.minimum(tiles, 2) - 1:  # early, for the answer takes a while
            following = next_item(NEXT, items)
    return following, mended


@gluon.jit
def produce(shared, NEXT, memory, form: gl.constexpr):
    """Keep STAGES tiles of K and V, in all their parts, on their way to shared memory.

    PERSISTENT: items are asked for, and told to the groups, until there are none.
    Q_COMES: queries need no conversion and are brought as well.
    """
    (told, told_full, told_empty, items, sizes, requests) = shared
    item = gl.program_id(0)
    if form.RAGGED_Q:
        items = count_items(items, sizes, requests, form)
    if form.PERSISTENT:
        turn, mended = 0, 0
        before = 0  # tiles of earlier items
        while item < items:
            placed = place(item, sizes, requests, form)
            if placed[1] > 0:
                mbarrier.wait(told_empty, (turn & 1) ^ 1)
                tell(told, placed)
                mbarrier.arrive(told_full, count=1)
                item, mended = _bring(placed, turn, before, mended, items, NEXT, memory, form)
                turn += 1
                before += placed[4]
            else:
                item = next_item(NEXT, items)
        mbarrier.wait(told_empty, (turn & 1) ^ 1)
        tell(told, (0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
        mbarrier.arrive(told_full, count=1)
    else:
        if item < items:
            placed = place(item, sizes, requests, form)
            if placed[1] > 0:
                _bring(placed, 0, 0, 0, items, NEXT, memory, form)
