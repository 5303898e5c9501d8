"""Cases of requests of unequal lengths: contiguous, ragged and paged, in memory full of NaN.

Nothing but the tokens of the requests is a number: the room behind a request's last token, the rest
of its last page, pages that no request has, and what the strides leave out are NaN.
"""

import random
from dataclasses import dataclass, replace
from typing import Any

import bounds
import kernel_cases
import pairwise
import torch
from torch import Tensor

from autoprec.kernels.interface import TORCH_DTYPES, Call, Halves, Kernel, Requests, Target
from autoprec.kernels.reference import singles
from autoprec.paths import PATHS
from autoprec.types import Config, Dtype, Layout, Phase, Storage, Workload

MEMORY = ("lengths", "ragged", "page3", "page16", "page64")
ORDERS = ("HND", "NHD", "holes")

# What is asked which cases a kernel takes, where the chip itself may not be.
_CPU = Target(kind="cpu", arch="x86_64", shared_bytes=0, units=2)
_HOPPER = Target(kind="cuda", arch="sm_90", shared_bytes=232448, units=132)

# The lengths of the queries and the keys of each request.
_DECODE = (
    ((1, 1, 1), (64, 0, 1)),
    ((1, 1, 1), (65, 140, 17)),
    ((3, 1, 0), (33, 128, 5)),
    ((4, 4), (129, 2)),
    ((16,), (63,)),
)
_PREFILL = (
    ((17, 5, 0), (17, 40, 9)),
    ((33, 33), (33, 90)),
    ((1, 20, 3), (64, 0, 65)),
    ((66,), (63,)),
)


@dataclass(frozen=True)
class Lengths:
    """What a case's requests are, and where: lists of whole numbers, as a caller keeps them."""

    q_lens: tuple[int, ...]
    kv_lens: tuple[int, ...]
    page_size: int | None = None
    tables: tuple[tuple[int, ...], ...] = ()
    slack: int = 0


def halves_of(k: Tensor, v: Tensor) -> Halves:
    """K and V ``[..., tokens, dim]`` as Storage.PLANES holds them, by other means than kernels."""
    planes, factors = [], []
    for x in (k, v):
        amax = x.double().abs().nan_to_num(0.0).amax(-1)
        exponent = torch.frexp(amax)[1]  # amax = m * 2^e, 1/2 ≤ m < 1: brought into [2^14, 2^15)
        inverse = torch.where(amax > 0, 2.0 ** (exponent - 15).double(), 2.0**-126)
        scaled = x.double() / inverse[..., None]
        hi = scaled.half()
        planes.append(torch.stack([hi, (scaled - hi.double()).half()]))
        factors.append(inverse.masked_fill(x.isnan().any(-1), float("nan")).float())
    return Halves(planes[0], planes[1], torch.stack(factors))


def _strided(x: Tensor, order: str) -> Tensor:
    """The values of x ``[rows, heads, tokens, dim]`` in memory of an order, NaN between them."""
    if order == "NHD":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if order == "holes":
        wide = x.new_full((*x.shape[:2], x.shape[2] + 1, x.shape[3] + 8), float("nan"))
        wide[:, :, :-1, :-8] = x
        return wide[:, :, :-1, :-8]
    return x.contiguous()


def tables_of(lengths: Lengths, seed: int = 0) -> Lengths:
    """The same with pages drawn at random for every request, each its own."""
    assert lengths.page_size is not None
    counts = [-(-kv_len // lengths.page_size) for kv_len in lengths.kv_lens]
    numbers = random.Random(seed).sample(range(sum(counts) + 3), sum(counts))
    tables = []
    for count in counts:
        tables.append(tuple(numbers[:count]))
        numbers = numbers[count:]
    return replace(lengths, tables=tuple(tables))


def _memory(x: Tensor, lengths: Lengths, memory: str) -> Tensor:
    """K or V, given as ``[heads, tokens of all requests, dim]``, where the case has it."""
    heads, _, dim = x.shape
    parts = list(x.split(list(lengths.kv_lens), 1))
    if memory == "ragged":
        return x.unsqueeze(0)
    if memory == "lengths":
        longest = max(lengths.kv_lens) + lengths.slack
        whole = x.new_full((len(parts), heads, longest, dim), float("nan"))
        for row, part in zip(whole, parts, strict=True):
            row[:, : part.shape[1]] = part
        return whole
    size = lengths.page_size
    assert size is not None
    used = [page for table in lengths.tables for page in table]
    pool = x.new_full((max(used, default=0) + 2, heads, size, dim), float("nan"))
    for table, part in zip(lengths.tables, parts, strict=True):
        for place, page in enumerate(table):
            tokens = part[:, place * size : (place + 1) * size]
            pool[page, :, : tokens.shape[1]] = tokens
    return pool


def _requests(lengths: Lengths, memory: str, *, ragged_q: bool, device: str) -> Requests:
    def ints(numbers: Any) -> Tensor:
        return torch.tensor(list(numbers), dtype=torch.int32, device=device)

    def starts(counts: Any) -> list[int]:
        return [sum(counts[:i]) for i in range(len(counts) + 1)]

    kv_starts, pages = None, None
    if memory == "ragged":
        kv_starts = ints(starts(lengths.kv_lens))
    elif memory != "lengths":
        kv_starts = ints(starts([len(table) for table in lengths.tables]))
        # what stands behind the last table must not be read
        pages = ints([*(page for table in lengths.tables for page in table), 1 << 30])
    return Requests(
        kv_lens=ints(lengths.kv_lens),
        kv_starts=kv_starts,
        pages=pages,
        q_starts=ints(starts(lengths.q_lens)) if ragged_q else None,
        max_q_len=max(lengths.q_lens) + (lengths.slack if ragged_q else 0),
        max_kv_len=max(lengths.kv_lens) + lengths.slack,
    )


def guarded(case: pairwise.Case, lengths: Lengths, device: str) -> kernel_cases.Guarded:
    """The call of a case, with results in guarded memory."""
    (q_heads, kv_heads), (dim, dim_v) = case["heads"], case["dims"]
    draw = torch.Generator().manual_seed(sum(lengths.kv_lens) * 100 + sum(lengths.q_lens))
    ragged_q = case["q"] == "ragged" or len(set(lengths.q_lens)) > 1
    q = torch.randn((q_heads, sum(lengths.q_lens), dim), generator=draw)
    q = q.to(device, TORCH_DTYPES[case["input"]])
    q = q.unsqueeze(0) if ragged_q else q.unflatten(1, (len(lengths.q_lens), -1)).transpose(0, 1)
    storage = Storage(case["storage"] or case["input"].value)
    tokens = sum(lengths.kv_lens)
    k, v = (
        _memory(torch.randn((kv_heads, tokens, d), generator=draw), lengths, case["memory"])
        for d in (dim, dim_v)
    )
    if storage is Storage.PLANES:
        halves = halves_of(_strided(k, case["order"]).to(device), v.to(device))
        k, v = halves.k[0], halves.v[0]
    else:
        halves = None
        dtype = TORCH_DTYPES[Dtype(storage.value)]
        k, v = (_strided(x.to(device, dtype), case["order"]) for x in (k, v))
    guard = kernel_cases.guarded(
        q, k, v, out_dtype=TORCH_DTYPES[case["out"]], layout="bshd",
        diagonal={"full": None, "causal": 0, "below": -2}[case["mask"]],
        sm_scale=case.get("scale", 1.0) * dim**-0.5,
    )  # fmt: skip
    sinks = torch.linspace(-2, 2, q_heads, device=device) if case["sinks"] else None
    call = replace(
        guard.call, halves=halves, window_left=case["window"], soft_cap=case["cap"], sinks=sinks,
        requests=_requests(lengths, case["memory"], ragged_q=ragged_q, device=device),
    )  # fmt: skip
    return replace(guard, call=call)


def workload(row: Kernel, case: pairwise.Case, lengths: Lengths) -> Workload:
    """The workload of a case, as far as kernels look at it."""
    decodes = row.phases == (Phase.DECODE,)
    q_len = min(16, max(lengths.q_lens)) if decodes else max(lengths.q_lens)
    plain = {**case, "lengths": (q_len, max(lengths.kv_lens))}
    layout = {"lengths": Layout.CONTIGUOUS, "ragged": Layout.RAGGED}.get(
        case["memory"], Layout.PAGED
    )
    return replace(
        kernel_cases.workload(row, plain), layout=layout, page_size=lengths.page_size,
        window=None if case["window"] is None else case["window"] + 1, soft_cap=case["cap"],
        sinks=case["sinks"],
    )  # fmt: skip


def lengths_of(case: pairwise.Case) -> Lengths:
    """The requests of a case."""
    q_lens, kv_lens = case["lengths"]
    lengths = Lengths(q_lens, kv_lens, slack=case["slack"])
    if not case["memory"].startswith("page"):
        return lengths
    return tables_of(replace(lengths, page_size=int(case["memory"].removeprefix("page"))))


def cases(row: Kernel, device: str) -> list[pairwise.Case]:
    """Cases of a kernel in which every two choices meet."""
    decodes = row.phases == (Phase.DECODE,)
    factors = {
        "path": row.paths,
        "input": row.input_dtypes,
        "out": (Dtype.FP32, Dtype.BF16),
        "storage": (None, *row.forms),
        "lengths": _DECODE if decodes else _PREFILL,
        "memory": MEMORY,
        "order": ORDERS,
        "q": ("uniform", "ragged"),
        "heads": ((1, 1), (3, 1), (4, 2)),
        "dims": ((16, 16), (24, 40)) if device == "cpu" else ((64, 64), (192, 128)),
        "mask": ("full", "causal", "below"),
        "window": (None, 0, 20),
        "cap": (None, 1.5),
        "sinks": (False, True),
        "slack": (0, 70),
        "config": (0, -1),
    }

    def allowed(case: pairwise.Case) -> bool:
        lengths, here = lengths_of(case), _CPU if row.device == "cpu" else _HOPPER
        fits = (
            case["storage"] != case["input"].value and case["input"] in PATHS[case["path"]].inputs
        )
        return fits and not row.refusals(
            case["path"], workload(row, case, lengths), here, storage=case["storage"], lengths=True
        )

    return pairwise.cover(factors, allowed)


def name(row: Kernel, case: pairwise.Case) -> str:
    """A case in one word."""
    (q_lens, kv_lens), heads, dims = case["lengths"], case["heads"], case["dims"]
    storage = "" if case["storage"] is None else f"-{Storage(case['storage']).value}"
    words = (
        row.name, case["path"], f"{case['input'].value}>{case['out'].value}{storage}",
        f"q{','.join(map(str, q_lens))}", f"kv{','.join(map(str, kv_lens))}", case["memory"],
        case["order"], case["q"], f"{heads[0]}:{heads[1]}", f"d{dims[0]}:{dims[1]}", case["mask"],
        f"window{case['window']}", f"cap{case['cap']}", f"sinks{case['sinks']:d}",
        f"slack{case['slack']}", f"config{case['config']}",
    )  # fmt: skip
    return "-".join(words)


def run(row: Kernel, case: pairwise.Case, device: str) -> None:
    """Run a case and check everything about it.

    Raises:
        AssertionError: Something is wrong.
    """
    lengths = lengths_of(case)
    here = kernel_cases.target(row, device)
    configs = row.configs(case["path"], workload(row, case, lengths), here)
    check(row, guarded(case, lengths, device), case["path"], configs[case["config"]])


def check(row: Kernel, guard: kernel_cases.Guarded, path: str, config: Config) -> None:
    """Run a kernel on a guarded call and compare every request with the oracle.

    Raises:
        AssertionError: Something is wrong.
    """
    row.run(guard.call, path, config)
    guard.assert_untouched()
    compare(guard.call, row, path)


def compare(call: Call, row: Kernel, path: str) -> None:
    """Compare what was written for every request with the oracle.

    Raises:
        AssertionError: Something is wrong.
    """
    for single in singles(call):
        if single.q.shape[2]:
            want = bounds.expected(single, path, row, tensor_cores=call.q.is_cuda)
            bounds.check(single, want)
