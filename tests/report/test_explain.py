import pytest
from made_up import measurement, profile, workload

from autoprec.errors import BudgetError, UnsupportedError
from autoprec.report.explain import Launched, explain
from autoprec.types import Conversion, Profile, Role, Status


def explained(made: Profile, width: int = 100, **sizes: object) -> str:
    return explain(made, workload(**sizes), width=width, colour=False)


MEASURED = """\
workload       prefill b1 q4096 kv4096 32/8 d128 causal fp32
device         NVIDIA H100 80GB HBM3 (cuda 9.0), 132 multiprocessors, 79.1 GiB
budget         rel_l2<=0.01 on every input family
path           fp16: operands rounded once to fp16 (10 mantissa bits), scaled by an exact power of
               two
kernel         triton-prefill
configuration  block_q=128 block_kv=64 num_warps=8
storage        K and V in fp32, brought into the path's form inside the measured time
time           0.341 ms (p20 0.334, p80 0.351, n 20)
workspace      0.125 GiB beyond inputs and outputs
rate           403 TFLOP/s, 55% of the fp16 matrix-product rate of 733
speedup        9.50x over sdpa-efficient (3.24 ms), the fastest baseline within the budget
margin         the error is 25.6x below the budget

Use fp16: the fastest path within the budget; bf16 is as fast within the spread, and less accurate.

error against fp64 attention
inputs     rel_l2  row_rel_p999  row_rel_max   max_abs  lse_abs nats
gauss    3.90e-04      5.85e-04     7.80e-04  3.90e-03      1.95e-04
outlier  1.95e-04      2.93e-04     3.90e-04  1.95e-03      9.75e-05

why not
- bf16: no clear difference in time from fp16 (0.3273 to 0.344 ms against 0.3342 to 0.3512 ms),
  which is more accurate: rel_l2 3.10e-03 against 3.90e-04
- tf32: 3.55x slower than fp16: 1.21 ms against 0.341 ms
- sdpa-efficient: 9.50x slower than fp16: 3.24 ms against 0.341 ms
- sdpa-math: 38.71x slower than fp16: 13.2 ms against 0.341 ms
- fp32: 49.56x slower than fp16: 16.9 ms against 0.341 ms
- sdpa-flash: unsupported: torch's flash backend takes no fp32

to measure it again
autoprec tune --phase prefill --batch 1 --kv-len 4096 --heads 32/8 --head-dim 128 --mask causal \
--input-dtype fp32 --out-dtype fp32
"""

REFUSED = """\
workload  decode b16 q1 kv8192 32/8 d128 causal bf16
device    NVIDIA H100 80GB HBM3 (cuda 9.0), 132 multiprocessors, 79.1 GiB
budget    rel_l2<=0.001 on every input family

No path keeps to the budget on this workload.

why not
- sdpa-cudnn: rel_l2 2.20e-03 on gauss is over the budget of 0.001; rounding the output to bf16
  alone costs 1.7e-03: try --out-dtype fp32
- bf16: rel_l2 2.20e-03 on gauss is over the budget of 0.001; rounding the output to bf16 alone
  costs 1.7e-03: try --out-dtype fp32

to measure it again
autoprec tune --phase decode --batch 16 --q-len 1 --kv-len 8192 --heads 32/8 --head-dim 128 --mask \
causal --input-dtype bf16 --out-dtype bf16
"""


def test_a_measured_workload() -> None:
    assert explained(profile()) == MEASURED


def test_a_workload_without_a_path_within_the_budget() -> None:
    made = profile(budget="1e-3")
    assert explained(made, phase="decode", batch=16, kv_len=8192, input_dtype="bf16") == REFUSED


def test_a_workload_on_which_nothing_runs() -> None:
    made = profile([measurement("bf16", status=Status.FAILED, reason="it broke")])
    text = explained(made)
    assert "\n\nNo path runs on this workload.\n\nwhy not\n- bf16: failed: it broke\n" in text


def test_a_workload_that_was_not_measured_says_what_stands_in() -> None:
    text = explained(profile(), phase="decode", batch=8, kv_len=5000, input_dtype="bf16")
    assert text.startswith("workload       decode b8 q1 kv5000 32/8 d128 causal bf16\n")
    assert (
        "\nUse bf16: the fastest path within the budget on the nearest workload measured.\n"
        "This workload was not measured; nearest measured: decode b16 q1 kv8192 32/8 d128 causal "
        "bf16; here\nbatch 8 instead of 16, kv_len 5000 instead of 8192.\n"
        "sdpa-cudnn, within the budget, is 1.07x faster than bf16: 0.188 against 0.202 ms (of the "
        "nearest:\ndecode b16 q1 kv8192 32/8 d128 causal bf16).\n"
    ) in text
    assert (
        "\nto measure it\nautoprec tune --phase decode --batch 8 --q-len 1 --kv-len 5000 " in text
    )


NEAREST = "(of the nearest: prefill b1 q4096 kv4096 32/8 d128 causal fp32)"


def test_every_number_of_the_nearest_is_said_to_be_of_the_nearest() -> None:
    text = explained(profile(), width=200, kv_len=1000000)
    facts, sentences, *tables = text.split("\n\n")
    assert facts.splitlines()[6:] == [
        f"storage        K and V in fp32, brought into the path's form inside the measured time "
        f"{NEAREST}",
        f"time           0.341 ms (p20 0.334, p80 0.351, n 20) {NEAREST}",
        f"workspace      0.125 GiB beyond inputs and outputs {NEAREST}",
        f"rate           403 TFLOP/s, 55% of the fp16 matrix-product rate of 733 {NEAREST}",
        "speedup        9.50x over sdpa-efficient (3.24 ms), the fastest baseline within the "
        f"budget {NEAREST}",
        f"margin         the error is 25.6x below the budget {NEAREST}",
    ]
    assert sentences.startswith(
        "Use fp16: the fastest path within the budget on the nearest workload measured; bf16 is as "
        "fast within the spread, and less accurate.\n"
    )
    assert [table.splitlines()[0] for table in tables] == [
        "error against fp64 attention (of the nearest)",
        "why not (of the nearest)",
        "to measure it",
    ]


def test_what_was_not_measured_at_all() -> None:
    made = profile([measurement("fp16")])
    text = explained(made)
    assert "speedup" not in text
    assert "\nwhy not\n- nothing else was measured\n" in text


def test_another_kernel_of_the_path_chosen_is_named() -> None:
    rows = [
        measurement("fp32", 1.0, 5e-7, kernel="quick"),
        measurement("fp32", 1.01, 6e-7, kernel="like"),
        measurement("fp32", 4.0, 5e-7, kernel="slow"),
        measurement("bf16", 1.02, 3e-3),
    ]
    text = explained(profile(rows))
    assert (
        "\nUse fp32: the fastest path within the budget; fp32 of like and bf16 are as fast within "
        "the spread,\nand less accurate.\n"
    ) in text
    assert (
        "\nwhy not\n"
        "- fp32 of like: no clear difference in time from fp32 of quick, which is more accurate\n"
        "- fp32 of slow: takes 4.00x the time of fp32 of quick\n"
        "- bf16: no clear difference in time from fp32 "
    ) in text


def test_the_choice_with_k_and_v_prepared_is_a_fact_and_no_other_path() -> None:
    rows = [
        measurement("fp16", 0.70, 3e-4, conversion=Conversion.INCLUDED),
        measurement("fp16", 0.58, 3e-4, conversion=Conversion.AMORTISED),
        measurement("fp32", 16.9, 5e-7),
    ]
    text = explained(profile(rows))
    assert (
        "time           0.700 ms (p20 0.686, p80 0.721, n 20)\n"
        "prepared       0.580 ms with K and V prepared once (plan.prepare_kv)\n"
    ) in text
    assert "\nwhy not\n- fp32: 24.14x slower than fp16: 16.9 ms against 0.7 ms\n\n" in text


def test_no_baseline_within_the_budget() -> None:
    made = profile([measurement("fp16", 1.0, 3e-4), measurement("sdpa-flash", 0.5, 3e-2)])
    assert (
        "\nspeedup        0.50x over sdpa-flash (0.500 ms), the fastest baseline, none being "
        "within the budget\n"
    ) in explained(made)


def test_a_chosen_baseline() -> None:
    rows = [measurement("fp16", 1.0, 3e-4), measurement("sdpa-flash", 0.5, 3e-4)]
    text = explained(profile(rows, allow_baselines=True))
    assert "\npath       sdpa-flash: PyTorch's own\n" in text
    assert "configuration" not in text
    assert "faster" not in text.split("why not")[0]


def test_a_chosen_baseline_of_another_library() -> None:
    rows = [measurement("fp16"), measurement("flashinfer", 0.5, role=Role.BASELINE)]
    text = explained(profile(rows, allow_baselines=True))
    assert "\npath           flashinfer: another library's own\n" in text


def test_a_choice_whose_measurement_is_gone() -> None:
    choices = profile([measurement("fp16")]).choices
    text = explained(profile([], choices=choices))
    assert "\nUse fp16: the fastest path within the budget.\n" in text
    assert "time" not in text.split("\n\n")[0]


def test_a_window_that_was_not_measured_is_explained_by_what_a_plan_would_take() -> None:
    text = explained(profile([measurement("fp16")]), width=200, window=1024)
    assert (
        "\nUse fp16: the fastest path within the budget on the nearest workload measured.\n"
        "This workload was not measured; nearest measured: prefill b1 q4096 kv4096 32/8 d128 "
        "causal fp32; here window 1024 instead of none.\n"
    ) in text


def test_the_kernel_of_the_nearest_is_said_to_be_of_the_nearest() -> None:
    text = explained(profile([measurement("fp16")]), width=200, window=1024)
    assert (
        f"\nkernel         triton-prefill {NEAREST}\n"
        f"configuration  block_q=128 block_kv=64 num_warps=8 {NEAREST}\n"
        f"storage        K and V in fp32, used as they are {NEAREST}\n"
    ) in text
    assert "of the nearest" not in explained(profile([measurement("fp16")]))


TIME_IS_OF = "note           time and errors are those of triton-prefill on the nearest"


@pytest.mark.parametrize(
    ("launch", "said"),
    [
        (
            Launched("spare", {"block": 16}, ("exact was chosen but cannot run this",)),
            [
                "kernel         spare",
                "configuration  block=16",
                "note           exact was chosen but cannot run this",
                TIME_IS_OF,
            ],
        ),
        (
            Launched("triton-prefill", {"block_q": 32}, ()),
            ["kernel         triton-prefill", "configuration  block_q=32"],
        ),
    ],
)
def test_what_a_plan_launches_for_what_was_not_measured(launch: Launched, said: list[str]) -> None:
    made = profile([measurement("fp16")])
    asked: list[object] = []

    def launches(it: object) -> Launched:
        asked.append(it)
        return launch

    text = explain(made, workload(window=1024), launch=launches, width=200, colour=False)
    before, _ = text.split("\nstorage ")
    assert before.splitlines()[4:] == said
    explain(made, workload(), launch=launches, width=200, colour=False)  # it was measured
    assert asked == [workload(window=1024)]


NOT_RUN = """\
workload  prefill b1 q4096 kv4096 32/8 d100000 causal fp32
device    NVIDIA H100 80GB HBM3 (cuda 9.0), 132 multiprocessors, 79.1 GiB
budget    rel_l2<=0.01 on every input family

No kernel runs the path fp16 on it: it is too large.
{others}
This workload was not measured; nearest measured: prefill b1 q4096 kv4096 32/8 d128 causal fp32; \
here head_dim 100000 instead of 128, head_dim_v 100000 instead of 128.
"""


@pytest.mark.parametrize(
    ("others", "said", "command"),
    [
        ((), "No other path has a kernel that takes it.", ""),
        (
            ("fp32", "tf32"),
            "Other paths have a kernel that takes it: fp32, tf32.",
            "\nto measure it\nautoprec tune --phase prefill --batch 1 --kv-len 4096 --heads 32/8 "
            "--head-dim 100000 --mask causal --input-dtype fp32 --out-dtype fp32\n",
        ),
    ],
)
def test_what_no_kernel_takes_is_not_recommended(
    others: tuple[str, ...], said: str, command: str
) -> None:
    launched = Launched("", {}, ("no kernel runs the path fp16 on it: it is too large",), others)
    text = explain(
        profile(), workload(head_dim=100000), launch=lambda it: launched, width=200, colour=False
    )
    assert text == NOT_RUN.format(others=said) + command


def test_nothing_comparable() -> None:
    with pytest.raises(UnsupportedError, match="autoprec tune --phase append"):
        explained(profile([]), phase="append", kv_len=4096)
    with pytest.raises(BudgetError, match="no path keeps to the budget on"):
        explained(profile(budget="1e-12"), kv_len=2048)
