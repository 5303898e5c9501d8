import csv
import io
import json
from dataclasses import dataclass

from autoprec.paths import PATHS
from autoprec.report.formats import table
from autoprec.report.paths import COLUMNS, document, render


@dataclass(frozen=True)
class Offer:
    kernel: str
    path: str
    phases: tuple[str, ...]
    reason: str = ""


OFFERS = [
    *(Offer("cpu-blocked", path, ("prefill", "append", "decode")) for path in PATHS
      if path not in ("fp16p2", "tf32x3")),
    Offer("cpu-flash", "fp32", ("prefill", "append")),
    *(Offer("triton-decode", path, ("decode",), "triton-decode needs a GPU") for path in PATHS
      if path != "fp16p2"),
    Offer("emulated", "fp32", ("decode",)),
    Offer("emulated", "tf32", ("decode",), "this CPU has no tf32"),
    Offer("autoprec.kernels.prefill", "", (), "No module named 'triton'"),
]  # fmt: skip

EXPECTED = """\
Precision paths that run here: 8 of 10.

precision paths
path    operands  products  inputs            rel_l2  runs here by
fp32    fp32      1+1       fp32 bf16 fp16  5.00e-07  cpu-blocked, cpu-flash, emulated
tf32    tf32      1+1       fp32 bf16 fp16  4.00e-04  cpu-blocked
tf32x3  tf32      3+3       fp32            5.00e-07  -
fp16x3  fp16      3+3       fp32            4.00e-07  cpu-blocked
bf16x3  bf16      3+3       fp32            6.00e-06  cpu-blocked
bf16x6  bf16      6+6       fp32            3.00e-07  cpu-blocked
bf16    bf16      1+1       fp32 bf16 fp16  3.00e-03  cpu-blocked
bf16p2  bf16      1+2       bf16            2.00e-06  cpu-blocked
fp16    fp16      1+1       fp32 bf16 fp16  4.00e-04  cpu-blocked
fp16p2  fp16      1+2       fp16            3.00e-07  -

kernels
kernel                    phases                   paths that run here
cpu-blocked               prefill, append, decode  8 of 8
cpu-flash                 prefill, append          1 of 1
triton-decode             decode                   0 of 9
emulated                  decode                   1 of 2
autoprec.kernels.prefill  -                        no
- triton-decode: needs a GPU
- emulated, tf32: this CPU has no tf32
- autoprec.kernels.prefill: No module named 'triton'

- products: matrix products that form QK^T, and PV
- rel_l2: the error to expect of N(0, 1) inputs of the first type; autoprec tune measures it
- left out for want of width: what it does; --format markdown has every column
"""


def test_table() -> None:
    assert table.render(document(OFFERS), 100, False) == EXPECTED


def test_wide_tables_say_what_a_path_does() -> None:
    text = table.render(document(OFFERS), 180, False)
    assert "cpu-blocked, cpu-flash, emulated  IEEE fp32 multiply-add, no rounding" in text


def test_csv_has_a_line_for_every_path_and_kernel() -> None:
    lines = list(csv.DictReader(io.StringIO(render(OFFERS, "csv"))))
    assert list(lines[0]) == list(COLUMNS)
    assert len(lines) == len(OFFERS) + 1  # and one for the path that no kernel has
    unserved = next(line for line in lines if line["path"] == "fp16p2")
    assert (unserved["kernel"], unserved["runs"], unserved["reason"]) == (
        "", "False", "no kernel runs this path",
    )  # fmt: skip
    assert unserved["pv_products"] == "2"
    assert lines[-1]["kernel"] == "autoprec.kernels.prefill"


def test_json() -> None:
    records = json.loads(render(OFFERS, "json"))
    assert records[0] == {
        "path": "fp32",
        "operand": "fp32",
        "qk_products": 1,
        "pv_products": 1,
        "inputs": "fp32 bf16 fp16",
        "expected_rel_l2": 5e-7,
        "kernel": "cpu-blocked",
        "phases": "prefill append decode",
        "runs": True,
        "reason": "",
        "summary": "IEEE fp32 multiply-add, no rounding of operands",
    }
    assert records[-1]["operand"] is None


def test_markdown() -> None:
    assert (
        "| tf32x3 | tf32 | 3+3 | fp32 | 5.00e-07 | - | operands split into two tf32 parts, "
    ) in render(OFFERS, "markdown")
