"""Items of work: a block of queries of a head of a request each, handed out to programs.

The producer of a program asks for items and tells its groups of them.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def _blocks_of(first, Q_STARTS, batches, GROUPS: gl.constexpr):
    """Blocks of queries of each of 128 requests, from one on; 0 behind the last."""
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [gl.num_warps()], [0])
    i = first + gl.arange(0, 128, layout)
    start = gl.load(Q_STARTS + i, mask=i < batches, other=0)
    end = gl.load(Q_STARTS + i + 1, mask=i < batches, other=0)
    return gl.cdiv(end - start, 64 * GROUPS)


@gluon.jit
def count_items(most, sizes, requests, form: gl.constexpr):
    """Items of requests of unequal numbers of queries; none where there are at most 0.

    For the producer's one warp. Where several warps add up, they do so in shared memory, and before
    the kernel's warps have their parts the compiler may lay what it hands to them over it too soon.
    """
    (blocks, section, sections, heads, q_heads, q_len, kv_len, diagonal, batches,
     window_left) = sizes  # fmt: skip
    (KV_LENS, Q_STARTS, kv_heads, fitting) = requests
    count = 0
    for first in range(0, batches, 128):
        count += gl.sum(_blocks_of(first, Q_STARTS, batches, form.GROUPS), 0)
    return gl.where(most > 0, count * q_heads, 0)


@gluon.jit
def _added(a, b):
    return a + b


@gluon.jit
def _request_of(item, Q_STARTS, batches, heads, GROUPS: gl.constexpr):
    """The request that an item is of, and its number there."""
    batch = 0
    passed = 128  # of the last 128 requests, those that end before the item
    while (passed == 128) & (batch < batches):
        many = _blocks_of(batch, Q_STARTS, batches, GROUPS) * heads
        over = gl.associative_scan(many, 0, _added) <= item
        item -= gl.sum(gl.where(over, many, 0), 0)
        passed = gl.sum(over.to(gl.int32), 0)
        batch += passed
    return batch, item


@gluon.jit
def _block_and_head(within, blocks, kv_len, fitting, q_heads, kv_heads):
    """Of an item of a request, by its number there: heads come in sections, as even as can be."""
    section = q_heads
    if kv_len * kv_heads > fitting:
        sections = gl.cdiv(kv_heads, gl.maximum(fitting // kv_len, 1))
        section = gl.cdiv(kv_heads, sections) * (q_heads // kv_heads)
    first = within // (blocks * section) * section
    within -= blocks * first
    section = gl.minimum(section, q_heads - first)
    return within // section, first + within % section


@gluon.jit
def place(item, sizes, requests, form: gl.constexpr):
    """An item, by its number.

    Returns:
        first_query: Of its request, the first that it is of.
        rows: Queries that its request has; 0 for a head to spare.
        batch, q_head: Its request and its head.
        tiles: Tiles of keys; there is always one.
        q_row, q_first: The row of Q that its request is in, and where its queries begin there.
        kv_len, diagonal: Its request's, counted from first_key, as its tiles are.
        first_key: The first key of the first tile, behind which its window begins.

    Heads come in sections whose keys and values fit the L2 cache; within a section the blocks that
    see the most keys come first, so that no multiprocessor is left with a long one at the end. The
    last section may have heads to spare.
    Where requests have numbers of queries of their own, they come one after another instead, and
    the heads of each in sections of its own: ``fitting`` keys of a head fit the cache.
    """
    (blocks, section, sections, heads, q_heads, q_len, kv_len, diagonal, batches,
     window_left) = sizes  # fmt: skip
    (KV_LENS, Q_STARTS, kv_heads, fitting) = requests
    q_row, q_first = 0, 0
    if form.RAGGED_Q:
        batch, within = _request_of(item, Q_STARTS, batches, q_heads, form.GROUPS)
        q_first = gl.load(Q_STARTS + batch)
        q_len = gl.load(Q_STARTS + batch + 1) - q_first
        blocks = gl.cdiv(q_len, 64 * form.GROUPS)
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
    if form.LENGTHS:
        kv_len = gl.minimum(gl.load(KV_LENS + batch), kv_len)
        diagonal += kv_len - q_len
    if form.RAGGED_Q:
        block, q_head = _block_and_head(within, blocks, kv_len, fitting, q_heads, kv_heads)
    if form.CAUSAL:
        block = blocks - 1 - block
    first = block * (64 * form.GROUPS)
    first_key = 0
    if form.WINDOW:
        first_key = gl.minimum(first + diagonal - window_left, kv_len - 1)
        first_key = gl.maximum(first_key, 0) // form.BLOCK_KV * form.BLOCK_KV
        kv_len -= first_key
        diagonal -= first_key
    tiles = gl.cdiv(kv_len, form.BLOCK_KV)
    if form.CAUSAL:
        seen = gl.maximum(first + 64 * form.GROUPS + diagonal, 0)
        tiles = gl.minimum(tiles, gl.cdiv(seen, form.BLOCK_KV))
    return (first, rows, batch, q_head, gl.maximum(tiles, 1), q_row, q_first, kv_len, diagonal,
            first_key)  # fmt: skip


@gluon.jit
def tell(told, placed):
    """Hand an item to the groups; one without queries is the last."""
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [gl.num_warps()], [0])
    lane = gl.arange(0, 16, layout)
    numbers = gl.full([16], 0, gl.int32, layout)
    for i in gl.static_range(10):
        numbers = gl.where(lane == i, placed[i], numbers)
    told.store(numbers)  # all at once: a store waits for the one before


@gluon.jit
def rows_told(told):
    """How many queries the request of the item told has; 0: there is no item more."""
    return _hear(told, 1)


@gluon.jit
def heard(told, rows):
    """The item told, of which the rows are known."""
    return (_hear(told, 0), rows, _hear(told, 2), _hear(told, 3), _hear(told, 4), _hear(told, 5),
            _hear(told, 6), _hear(told, 7), _hear(told, 8), _hear(told, 9))  # fmt: skip


@gluon.jit
def _hear(told, number: gl.constexpr):
    """A number of what was told."""
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [gl.num_warps()], [0])
    return gl.max(told.slice(number, 1).load(layout), 0)


@gluon.jit
def next_item(NEXT, items):
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
