import pytest
import torch
from fake_kernels import planes, workload

from autoprec.kernels.interface import Launch
from autoprec.probe.inputs import blank_call
from autoprec.probe.workspace import Peak, planned_bytes


def test_planned_bytes_are_those_of_every_tensor_that_is_not_the_calls() -> None:
    call = blank_call(workload(kv_len=64))
    prepared, fill = planes(call.k)
    partials = torch.empty(4, 5, dtype=torch.float32, device="meta")
    attention = Launch(
        None, (1,),
        {"Q": call.q[0], "K": prepared.data[0], "O": call.out, "L": call.out[..., 0],
         "PARTIAL": partials, "n": 3, "none": None},
    )  # fmt: skip
    bytes_of_k = 1 * 2 * 64 * 32 * 2  # batch, KV heads, keys, head dim, bf16
    assert planned_bytes([fill, attention], call) == bytes_of_k + 4 * 5 * 4
    assert planned_bytes([], call) == 0


def test_a_descriptor_counts_as_its_tensor() -> None:
    class Descriptor:
        block_shape = (8, 8)
        base = torch.empty(10, dtype=torch.float32, device="meta")

    call = blank_call(workload(kv_len=64))
    assert planned_bytes([Launch(None, (1,), {"k_desc": Descriptor()})], call) == 40


def test_on_a_cpu_nobody_counts() -> None:
    assert Peak(torch.device("cpu")).bytes(less=0) is None


@pytest.mark.cuda
def test_the_peak_of_a_gpu() -> None:
    device = torch.device("cuda")
    held = torch.empty(1 << 20, dtype=torch.uint8, device=device)
    peak = Peak(device)
    passing = torch.empty(3 << 20, dtype=torch.uint8, device=device)
    del passing
    result = torch.empty(1 << 20, dtype=torch.uint8, device=device)
    assert peak.bytes(less=0) == 3 << 20
    assert peak.bytes(less=1 << 20) == 2 << 20
    assert (held.nbytes, result.nbytes) == (1 << 20, 1 << 20)
