"""What a CUDA graph of ``run`` needs: memory that stays, and grids that no length moves."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import flashinfer_oracle as oracle
import made_up
import pytest
import torch
from flashinfer_cases import Case, check, pages
from tolerance import tolerance
from torch import Tensor

from autoprec import flashinfer, profile
from autoprec.errors import InputError
from autoprec.kernels.interface import Call
from autoprec.probe import device as devices

EXACT = tolerance("fp32", head_dim=16, kv_len=70)


def case(kv_lens: list[int], q_lens: list[int] | None = None, **changes: Any) -> Case:
    values: dict[str, Any] = {
        "kv_lens": kv_lens, "q_lens": q_lens or [1] * len(kv_lens), "heads": (4, 2),
        "dims": (16, 16), "page_size": 4, "form": "NHD tuple", "dtype": torch.float32,
        "out_dtype": torch.float32, "window_left": -1, "soft_cap": None, "causal": True,
        "wide": False, "seed": 0,
    }  # fmt: skip
    return Case(**values | changes)


def buffers(batch: int, room: int, device: str) -> list[Tensor]:
    return [torch.zeros(n, dtype=torch.int32, device=device) for n in (batch + 1, room, batch)]


@pytest.fixture
def calls(kernels: str, monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What kernels are handed."""
    from autoprec.flashinfer import precision

    found: list[Call] = []
    execute = precision.execute

    def recorded(decision: Any, call: Call, counts: Any, bound: Any) -> None:
        found.append(call)
        execute(decision, call, counts, bound)

    monkeypatch.setattr(precision, "execute", recorded)
    return found


def places(call: Call) -> list[int]:
    """Where a graph of the call would find what may change between replays."""
    assert call.requests is not None
    requests = call.requests
    tensors = (requests.kv_lens, requests.kv_starts, requests.pages, requests.q_starts,
               call.workspace)  # fmt: skip
    return [x.data_ptr() for x in tensors if x is not None]


def test_decode_plans_into_the_same_memory(calls: list[Call]) -> None:
    wrapper = flashinfer.CUDAGraphBatchDecodeWithPagedKVCacheWrapper(
        torch.empty(0, dtype=torch.uint8), *buffers(3, 32, "cpu")
    )
    assert wrapper.is_cuda_graph_enabled
    for kv_lens in ([1, 1, 1], [40, 3, 0], [5, 0, 70]):
        asked = case(kv_lens)
        table = pages(asked)
        wrapper.plan(table.indptr, table.indices, table.last, 4, 2, 16, 4,
                     q_data_type="float32")  # fmt: skip
        q = asked.queries()
        out, lse = torch.empty_like(q), torch.empty(3, 4)
        wrapper.run(q, table.cache, out=out, lse=lse, return_lse=True)
        want, want_lse = oracle.batch(q, table.keys, table.values, [1, 1, 1], causal=True)
        check(out, want, EXACT)
        torch.testing.assert_close(lse.double(), want_lse, rtol=EXACT, atol=EXACT)
    first, *others = calls
    assert first.requests is not None
    for other in others:
        assert places(other) == places(first)
        assert other.requests is not None
        assert other.requests.max_kv_len == first.requests.max_kv_len == 32 * 4


def test_a_captured_call_sees_the_next_plan(calls: list[Call], kernels: str) -> None:
    """What a replay does: the very call of before, after another plan."""
    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(
        torch.empty(1 << 12, dtype=torch.uint8), "NHD", True, torch.zeros(3, dtype=torch.int32),
        *buffers(2, 32, "cpu"), torch.zeros(512, dtype=torch.uint8),
        torch.zeros(3, dtype=torch.int32),
    )  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    for kv_lens, q_lens in (([30, 9], [5, 3]), ([7, 50], [3, 5]), ([0, 8], [0, 8])):
        asked = case(kv_lens, q_lens, seed=4)
        table = pages(asked)
        masks = [
            torch.rand(n, m, generator=draw) < 0.7 for n, m in zip(q_lens, kv_lens, strict=True)
        ]
        wrapper.plan(
            asked.starts(q_lens), table.indptr, table.indices, table.last, 4, 2, 16, 4,
            custom_mask=torch.cat([mask.view(-1) for mask in masks]), q_data_type="float32",
        )  # fmt: skip
        q = asked.queries()
        if not calls:
            wrapper.run(q, table.cache)
        captured = calls[0]
        captured.q.copy_(q.transpose(0, 1)[None])
        k, v = (x.transpose(1, 2) for x in table.cache)
        replay = Call(**{**vars(captured), "k": k, "v": v})
        from autoprec import registry

        row = next(row for row in registry.kernels() if "prefill" in row.phases)
        row.run(replay, "fp32", dict(row.configs("fp32", None, None)[0]))  # type: ignore[arg-type]
        want, _ = oracle.batch(q, table.keys, table.values, q_lens, masks)
        check(replay.out[0].transpose(0, 1), want, EXACT)


def test_a_plan_in_inference_mode_is_followed_by_one_outside_of_it(calls: list[Call]) -> None:
    wrapper = flashinfer.CUDAGraphBatchDecodeWithPagedKVCacheWrapper(
        torch.empty(0, dtype=torch.uint8), *buffers(2, 32, "cpu")
    )

    def run(kv_lens: list[int]) -> None:
        table = pages(asked := case(kv_lens))
        wrapper.plan(table.indptr, table.indices, table.last, 4, 2, 16, 4,
                     q_data_type="float32")  # fmt: skip
        q = asked.queries()
        got = wrapper.run(q, table.cache)
        want, _ = oracle.batch(q, table.keys, table.values, [1, 1], causal=True)
        check(got, want, EXACT)

    with torch.inference_mode():
        run([3, 70])
    run([40, 5])
    first, second = calls
    assert places(first) == places(second)
    assert second.workspace is not None
    second.workspace.zero_()


def test_what_does_not_fit_the_buffers(kernels: str) -> None:
    whole = torch.empty(64, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"^paged_kv_indices_buffer must be a tensor where use_"):
        flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            whole, use_cuda_graph=True, paged_kv_indptr_buffer=torch.zeros(3, dtype=torch.int32)
        )
    wrapper = flashinfer.CUDAGraphBatchDecodeWithPagedKVCacheWrapper(whole, *buffers(2, 3, "cpu"))

    def plan(kv_lens: list[int]) -> None:
        table = pages(case(kv_lens))
        wrapper.plan(table.indptr, table.indices, table.last, 4, 2, 16, 4, q_data_type="float32")

    plan([4, 8])
    with pytest.raises(InputError, match=r"^the batch is 3, and the buffers for graphs were made "):
        plan([1, 1, 1])
    with pytest.raises(InputError, match=r"^paged_kv_indices_buffer has room for 3 numbers, and 4"):
        plan([8, 8])
    bad = [torch.zeros(3, dtype=torch.int64), *buffers(2, 3, "cpu")[1:]]
    with pytest.raises(InputError, match=r"^paged_kv_indptr_buffer must be int32 on cpu, got to"):
        flashinfer.CUDAGraphBatchDecodeWithPagedKVCacheWrapper(whole, *bad)


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The path fp32 on a machine of which there is no profile, whatever was recorded of it."""
    from autoprec.flashinfer import precision

    def none(**asked: object) -> NoReturn:
        raise InputError("there is no profile for it yet.", "autoprec tune")

    precision.forget()
    monkeypatch.setattr(precision, "load_plan", none)
    flashinfer.set_plan("fp32")
    yield
    flashinfer.set_plan(None)
    precision.forget()


def test_a_profile_of_the_machine_is_not_looked_for_in_these_tests(
    unmeasured: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One that is stale would be warned of, and warnings are errors here."""
    from autoprec.flashinfer import precision

    cpu, file = torch.device("cpu"), tmp_path / "stale.json"
    stale = replace(devices.environment(cpu), kernels="of another day")
    profile.write(made_up.profile(environment=stale), file)
    monkeypatch.setenv("AUTOPREC_PROFILE", str(file))
    assert precision.chooser(None, cpu).runner is None


@pytest.mark.cuda
@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("spec", [1, 3])
def test_replays_on_a_gpu(spec: int) -> None:
    """A real graph: nothing is allocated while it is captured, and replays see other lengths."""
    device = "cuda"
    wrapper = flashinfer.CUDAGraphBatchDecodeWithPagedKVCacheWrapper(
        torch.empty(1 << 22, dtype=torch.uint8, device=device), *buffers(3, 200, device)
    )
    make = [[1, 1, 1], [600, 3, 17], [5, 0, 700]]
    long = tolerance("fp32", head_dim=64, kv_len=700)
    cases = [case(lens, [spec] * 3, device=device, page_size=16, dims=(64, 64)) for lens in make]
    tables = [pages(asked) for asked in cases]
    most = max(len(table.cache[0]) for table in tables)
    cache = [torch.zeros(most, 16, 2, 64, device=device) for _ in range(2)]
    q = torch.zeros(3 * spec, 4, 64, device=device)
    out, lse = torch.empty_like(q), torch.empty(3 * spec, 4, device=device)

    def plan(number: int) -> None:
        table = tables[number]
        for mine, theirs in zip(cache, table.cache, strict=True):
            mine[: len(theirs)].copy_(theirs.nan_to_num())
        q.copy_(cases[number].queries())
        wrapper.plan(table.indptr, table.indices, table.last, 4, 2, 64, 16, q_data_type="float32",
                     q_len_per_req=spec)  # fmt: skip

    def run() -> None:
        wrapper.run(q, (cache[0], cache[1]), out=out, lse=lse, return_lse=True)

    plan(0)
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # which allocates for itself as it begins
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        run()
        after = torch.cuda.memory_stats()["allocation.all.allocated"]
    assert after == before
    for number in (1, 2, 0, 1):
        plan(number)
        graph.replay()
        table = tables[number]
        want, want_lse = oracle.batch(q, table.keys, table.values, [spec] * 3, causal=True)
        check(out, want, long)
        torch.testing.assert_close(lse.double(), want_lse, rtol=long, atol=long)
