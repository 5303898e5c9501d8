"""What choices mean for a model."""

import pandas as pd
from made_up import measurement, profile, workload

from autoprec.model_layers import Geometry, Layers
from autoprec.report.document import Document
from autoprec.report.formats import table
from autoprec.report.model import sections
from autoprec.types import Mask, Measurement, Workload

WIDE = Layers(count=2, q_heads=32, kv_heads=8, head_dim=128, head_dim_v=128, mask=Mask.CAUSAL)
NARROW = Layers(
    count=10, q_heads=32, kv_heads=8, head_dim=128, head_dim_v=128, mask=Mask.CAUSAL, window=512
)
MODEL = Geometry(name="tiny", layers=(WIDE, NARROW), context=None)
PREFILL = workload(input_dtype="bf16")
LOCAL = workload(input_dtype="bf16", window=512)
DECODE = workload(phase="decode", batch=16, kv_len=8192, input_dtype="bf16")


def rows(shape: Workload, ms: float, baseline_ms: float, path: str = "bf16") -> list[Measurement]:
    return [
        measurement(path, ms, 1e-3, workload=shape),
        measurement("sdpa-cudnn", baseline_ms, 1e-3, workload=shape),
    ]


def said(model: Geometry, measurements: list[Measurement]) -> str:
    found = tuple(sections(model, profile(measurements)))
    document = Document(facts=(), sentences=(), sections=found, notes=(), records=pd.DataFrame)
    return table.render(document, 100, False)


def flat(text: str) -> str:
    return " ".join(text.split())


def test_times_are_summed_over_the_layers_of_each_kind() -> None:
    made = [*rows(PREFILL, 2.0, 3.0), *rows(LOCAL, 0.5, 0.25, "bf16p2"), *rows(DECODE, 0.25, 0.5)]
    assert (
        said(MODEL, made)
        == """\
tiny, attention of 12 layers
what                                             path                   ms  baseline ms  speedup
a prompt of 4096 tokens, bf16                    bf16 x2, bf16p2 x10  9.00         8.50    0.94x
a token of each of 16 requests, 8192 keys, bf16  bf16                 3.00         6.00    2.00x
- attention only: what else a model computes is not in these times
- baseline: for each kind of layer the fastest that keeps to the budget too
- layers with a window or a soft cap stand here as they were measured: without
- cache: K and V of a token take 48.0 KiB in bf16
- cache: layers with a window need no more tokens than the window has

- left out for want of width: over; --format markdown has every column
"""
    )


def test_a_baseline_over_the_budget_is_none() -> None:
    measurements = [
        measurement("fp32", 1.0, 1e-6, workload=PREFILL),
        measurement("sdpa-cudnn", 0.1, 0.5, workload=PREFILL),
    ]
    text = said(Geometry(name="x", layers=(WIDE,), context=None), measurements)
    assert "\na prompt of 4096 tokens, bf16  fp32  2.00            -        -  -\n" in text


def test_an_encoder_has_rows_of_its_own_and_no_cache() -> None:
    eye = Layers(count=27, q_heads=16, kv_heads=16, head_dim=72, head_dim_v=72, mask=Mask.FULL,
                 part="vision encoder")  # fmt: skip
    seen = workload(q_heads=16, kv_heads=16, head_dim=72, mask="full", input_dtype="bf16")
    model = Geometry(name="x", layers=(WIDE, eye), context=None)
    text = said(model, [*rows(PREFILL, 2.0, 3.0), *rows(seen, 1.0, 2.0)])
    assert "x, attention of 2 layers\n" in text
    assert "vision encoder: a prompt of 4096 tokens, bf16 bf16 27.0 54.0 2.00x" in flat(text)
    assert "cache: K and V of a token take 8.00 KiB in bf16\n" in text


def test_mla_says_what_its_latents_take() -> None:
    text = said(Geometry(name="x", layers=(WIDE,), context=None, latent=576), rows(PREFILL, 2, 3))
    assert "its latents take 2.25 KiB a token in 16 bits" in flat(text)


def test_nothing_of_the_model_is_nothing() -> None:
    assert list(sections(MODEL, profile([measurement("fp32", workload=workload(q_heads=8))]))) == []
