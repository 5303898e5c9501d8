from made_up import workload

from autoprec.report.labels import short
from autoprec.types import Layout


def test_what_is_shared_goes_into_the_heading() -> None:
    shapes = [
        workload(phase="decode", batch=1, kv_len=1024),
        workload(phase="decode", batch=16, kv_len=8192, input_dtype="bf16", out_dtype="fp32"),
    ]
    assert short(shapes) == (
        "decode q1 32/8 d128 causal",
        ["b1 kv1024 fp32", "b16 kv8192 bf16>fp32"],
    )


def test_a_prefills_q_len_is_its_kv_len() -> None:
    assert short([workload()]) == ("prefill 32/8 d128 causal", ["b1 kv4096 fp32"])


def test_layouts_and_sinks_are_named() -> None:
    shapes = [
        workload(layout=Layout.PAGED, page_size=16, sinks=True),
        workload(layout=Layout.RAGGED),
    ]
    assert short(shapes) == (
        "prefill 32/8 d128 causal", ["b1 kv4096 sinks page16 fp32", "b1 kv4096 ragged fp32"],
    )  # fmt: skip


def test_what_differs_tells_workloads_apart() -> None:
    shapes = [
        workload(phase="append", q_len=16, kv_len=4096, mask="full"),
        workload(
            phase="append", kv_len=4096, head_dim=192, head_dim_v=128, window=64, soft_cap=30.0
        ),
    ]
    assert short(shapes) == (
        "append 32/8",
        [
            "b1 q16 kv4096 d128 full fp32",
            "b1 q512 kv4096 d192/128 causal w64 cap30 fp32",
        ],
    )
