from made_up import ceilings, device, environment, errors, measurement, profile, workload

from autoprec.report.comparison import document
from autoprec.report.formats import table
from autoprec.report.frames import compared
from autoprec.report.report import render
from autoprec.types import Profile, Status

ELSEWHERE = workload(phase="decode", batch=16, kv_len=8192)


def before(**changes: object) -> Profile:
    rows = [
        measurement("fp32", 10.0, 5e-7),
        measurement("fp16", 1.0, 4e-4),
        measurement("bf16", 1.9, 3e-3),
        measurement("tf32", 3.0, 4e-4),
        measurement("tf32x3", None, None, status=Status.SKIPPED, reason="no time"),
        measurement("sdpa-flash", 4.0, 4e-4),
        measurement("fp16", workload=ELSEWHERE),
    ]
    return profile(rows, **changes)


def after() -> Profile:
    rows = [
        measurement("fp32", 8.0, 5e-7),
        measurement("fp16", 2.0, 4e-4),
        measurement("bf16", 1.88, 3e-3, p80_ms=1.9),
        measurement("tf32", None, None, status=Status.FAILED, reason="no answer"),
        measurement("sdpa-flash", 4.1, 4e-4),
        measurement("bf16", workload=workload(input_dtype="bf16")),
        measurement("bf16", None, None, workload=workload(kv_len=64), status=Status.SKIPPED,
                    reason="no time"),
    ]  # fmt: skip
    rates = {"fp32": 51.0, "tf32": 365.0, "bf16": 785.0, "fp16": 733.0}
    return profile(
        rows,
        budget="rel_l2<=0.02",
        environment=environment(triton="3.8.0", variables={"NVIDIA_TF32_OVERRIDE": "0"}),
        ceilings=ceilings(gemm_tflops=rates),
        created_at="2026-12-01T08:00:00Z",
    )


EXPECTED = """\
A  old.json: NVIDIA H100 80GB HBM3, 2026-11-23T12:00:00Z
B  new.json: NVIDIA H100 80GB HBM3, 2026-12-01T08:00:00Z

B against A: the choices are 1.88x slower in the geometric mean over 1 workload.
B against A: of 4 times in both, 1 faster, 1 slower and 2 inconclusive.

what changed
thing                        A             B
triton                       3.7.1         3.8.0
budget                       rel_l2<=0.01  rel_l2<=0.02
tf32 matrix product TFLOP/s  370           365
NVIDIA_TF32_OVERRIDE         -             0

choices that differ
workload                                       A     B
prefill b1 q4096 kv4096 32/8 d128 causal fp32  fp16  bf16

prefill b1 q4096 kv4096 32/8 d128 causal fp32
  path        A p50 ms  B p50 ms  change        A rel_l2  B rel_l2  chosen in
> fp16            1.00      2.00  2.00x slower  4.00e-04  4.00e-04  A
> bf16            1.90      1.88  inconclusive  3.00e-03  3.00e-03  B
  tf32            3.00      -     failed in B   4.00e-04         -
  sdpa-flash      4.00      4.10  inconclusive  4.00e-04  4.00e-04
  fp32           10.0       8.00  1.25x faster  5.00e-07  5.00e-07

workloads that only one has
- only in A: decode b16 q1 kv8192 32/8 d128 causal fp32
- only in B: prefill b1 q4096 kv4096 32/8 d128 causal bf16

geometric mean
of          n  change        compares
choices     1  1.88x slower  what each profile chose, whatever the path
candidates  3  1.17x slower  the same path in both
baselines   1  1.02x slower  the same baseline in both: what the machine alone changed

- same: surely no more than 3% apart
- inconclusive: the difference is not larger than the noise, or the ranges from the 20th to the 80th
  percentile meet
"""


def test_two_profiles() -> None:
    sides = [("old.json", before()), ("new.json", after())]
    assert table.render(document(sides), 100, False) == EXPECTED


def test_a_profile_against_itself() -> None:
    text = table.render(document([("x", before()), ("y", before())]), 100, False)
    assert "\nwhat changed\n- nothing that the profiles record\n" in text
    assert (
        "\nchoices that differ\n- none: both choose the same path on every workload they share\n"
    ) in text
    assert "\nchoices     2  as fast  what each" in text
    assert "\nB against A: of 6 times in both, 6 same.\n" in text
    assert "slower" not in text
    assert "only in" not in text


def test_several_profiles_each_against_the_first() -> None:
    cpu = environment(device=device(kind="cpu", name="EPYC", capability="x86_64"), cuda=None)
    sides = [("x", before()), ("y", after()), ("z", profile([], environment=cpu))]
    text = table.render(document(sides), 100, False)
    assert "\nC  z: EPYC, 2026-11-23T12:00:00Z\n" in text
    assert "\nC and A have nothing measured in common.\n" in text
    assert "\nB against A: geometric mean\n" in text
    assert "\nC against A: what changed\n" in text
    assert "C against A: choices that differ" not in text
    assert "C against A: geometric mean" not in text


def test_a_workload_refused_in_one_is_a_choice_that_differs() -> None:
    strict = before(budget="1e-12")
    text = table.render(document([("x", before()), ("y", strict)]), 100, False)
    assert "fp32  fp16  none within budget\n" in text


def test_errors_with_and_without_bounds_are_said_not_to_be_of_the_same_draws() -> None:
    bounds = {"gauss": errors(7e-4), "outlier": errors(9e-4)}
    new = profile([measurement("fp16", n_draws=64, confidence=0.96, bounds=bounds)])
    old = profile([measurement("fp16")])
    text = table.render(document([("x", old), ("y", new)]), 120, False)
    assert (
        "B against A: errors of the two are not of the same draws: A has no bounds, and its "
        "errors are of whole outputs alone."
    ) in " ".join(text.split())
    assert "> fp16      1.00      1.00  same    1.00e-04  9.00e-04  A, B\n" in text
    turned = table.render(document([("x", new), ("y", old)]), 120, False)
    assert "not of the same draws: B has no bounds" in turned
    for both in (old, new):
        text = table.render(document([("x", both), ("y", both)]), 120, False)
        assert "draws" not in text
    wide = compared(old, new).to_dict("records")[0]
    assert (wide["rel_l2_a"], wide["rel_l2_held_a"]) == (1e-4, 1e-4)
    assert (wide["rel_l2_b"], wide["rel_l2_held_b"]) == (1e-4, 9e-4)


def test_csv_of_several_names_both_sides() -> None:
    lines = render([("x", before()), ("y", after()), ("z", before())], "csv").splitlines()
    assert lines[0].startswith("profile_a,profile_b,workload,phase,")
    assert {line.split(",")[1] for line in lines[1:]} == {"y", "z"}


def test_more_profiles_than_letters() -> None:
    text = table.render(document([("x", before())] * 28), 100, False)
    assert "\nP27  x: " in text
