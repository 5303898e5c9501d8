"""The sections on caches and on consistent mode."""

from made_up import device, environment, measurement, profile, workload

from autoprec.report import summary
from autoprec.report.caches import sections as caches
from autoprec.report.consistent import sections as consistent
from autoprec.report.document import Section
from autoprec.report.formats import table
from autoprec.report.outcomes import outcomes
from autoprec.report.report import document, render
from autoprec.types import Conversion, Measurement, Profile, Status, Storage

DECODE = workload(phase="decode", batch=16, kv_len=8192)
INCLUDED = {"conversion": Conversion.INCLUDED, "workload": DECODE}


def stored(path: str, ms: float, error: float, storage: Storage) -> Measurement:
    read = DECODE.batch * DECODE.kv_len * DECODE.token_bytes(storage)
    return measurement(
        path, ms, error, workload=DECODE, storage=storage, conversion=Conversion.AMORTISED,
        gb_s=read / ms / 1e6,
    )  # fmt: skip


def made(**changes: object) -> Profile:
    rows = [
        measurement("fp16x3", 0.45, 4e-7, **INCLUDED),
        stored("fp16x3", 0.38, 4e-7, Storage.PLANES),
        measurement("bf16", 0.40, 3e-3, **INCLUDED),
        stored("bf16", 0.19, 3e-3, Storage.BF16),
        measurement("tf32", 0.39, 4e-4, workload=DECODE),
    ]
    return profile(rows, budget="rel_l2<=0.001", **changes)


def shown(section: Section) -> list[tuple[str, ...]]:
    return [tuple(cell for cell in row.cells) for row in section.rows]


def test_a_row_for_each_form() -> None:
    (section,) = caches(outcomes(made()), made())
    name = "b16 kv8192 fp32"
    assert section.heading == "caches, decode q1 32/8 d128 causal"
    assert [column.title for column in section.columns] == [
        "workload", "cache", "path", "p50 ms", "GB/s", "tokens/s", "bytes/token", "rel_l2",
        "verdict",
    ]  # fmt: skip
    assert shown(section) == [
        (name, "fp32", "tf32", "0.390", "2750", "41000", "8192", "4.00e-04", "within budget"),
        (name, "bf16", "bf16", "0.190", "2830", "84200", "4096", "3.00e-03", "over budget"),
        (name, "fp16x2", "fp16x3", "0.380", "2850", "42100", "8256", "4.00e-07", "within budget"),
    ]
    assert section.notes == (
        "K and V were brought into the form as they were appended, which is in no time here; GB/s "
        "are of what a path reads of the cache: fp16 reads one plane of fp16x2, fp16x3 both",
        "tokens/s: new tokens of all requests; bytes/token: what a token takes in the cache, over "
        "all KV heads",
        f"a cache for {DECODE} is fp16x2: each phase was fastest on it: fp16x2 for decode "
        "(fp16x3, 0.38 ms)",
    )


def test_every_format_has_the_forms() -> None:
    named = [("h100.json", made())]
    for format in ("table", "markdown", "html"):
        text = render(named, format)
        assert "caches" in text
        assert "84200" in text
    assert "fp16x2,amortised,False,ok" in render(named, "csv")
    assert '"token_bytes": 8256' in render(named, "json")


def test_details_tell_the_variants_apart() -> None:
    text = table.render(document(made()), 240, False)
    assert "bf16 (bf16 cache)" in text
    assert "fp16x3 (fp16x2 cache)" in text
    assert "it reads a cache in fp16x2, brought into that form by the append" in text


def test_a_profile_without_forms_says_nothing() -> None:
    plain = profile([measurement("tf32", 0.39, 4e-4, workload=DECODE)])
    assert list(caches(outcomes(plain), plain)) == []


def test_on_a_cpu_a_sentence() -> None:
    here = environment(device=device(kind="cpu", name="a CPU", capability="x86_64"))
    plain = profile([measurement("fp32", 0.39, 4e-7, workload=DECODE)], environment=here)
    (section,) = caches(outcomes(plain), plain)
    assert (section.rows, section.notes) == (
        (), ("other forms of K and V than fp32 were not measured: no kernel for CPUs reads them",),
    )  # fmt: skip


def in_mode() -> Profile:
    bf16 = workload(input_dtype="bf16")
    return profile(
        [
            measurement("tf32", 0.39, 4e-4, workload=DECODE),
            measurement("tf32", 0.42, 4e-4, workload=DECODE, consistent=True),
            measurement("bf16", 0.3, 3e-3, workload=bf16, kernel="hopper-prefill"),
            measurement("bf16", 0.6, 3e-3, workload=bf16, consistent=True),
            measurement("fp32", 1.0, 1e-7),
            measurement(
                "fp32", None, None, consistent=True, status=Status.SKIPPED,
                reason="there was no time for it",
            ),
        ]
    )  # fmt: skip


def test_what_consistent_mode_costs() -> None:
    (section,) = consistent(outcomes(in_mode()))
    prefill = "prefill b1 q4096 kv4096 32/8 d128 causal"
    assert shown(section) == [
        (f"{prefill} fp32", "fp32", "triton-prefill", "-", "1.00", "-"),
        (f"{prefill} bf16", "bf16", "triton-prefill", "0.600", "0.300", "2.00x"),
        (str(DECODE), "tf32", "triton-decode", "0.420", "0.390", "1.08x"),
    ]
    assert section.notes == (
        "1.47x the time of the choices, in the geometric mean over 2 workloads",
        f"{prefill} fp32: skipped: there was no time for it",
    )
    assert section in summary.document(in_mode()).sections
    assert section in document(in_mode()).sections


def test_without_the_mode_nothing_is_said() -> None:
    assert list(consistent(outcomes(made()))) == []
