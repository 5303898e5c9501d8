import json
from dataclasses import asdict, replace

from made_up import ceilings, device, environment

from autoprec.probe.nvml import DeviceState
from autoprec.report.formats import table
from autoprec.report.probe import document, render
from autoprec.types import DotMode

STATE = DeviceState(
    sm_clock_mhz=1980,
    memory_clock_mhz=2619,
    temperature_c=34,
    power_w=121.34,
    power_cap_w=700.0,
    throttle_reasons=("power cap", "hardware slowdown"),
    other_processes=("process 4711 (2.1 GiB)",),
    memory_free_gib=76.532,
)

GPU = """\
device           NVIDIA H100 80GB HBM3 (cuda 9.0), 132 multiprocessors, 79.1 GiB
versions         torch 2.13.0+cu130, triton 3.7.1, driver 580.82, CUDA 13.0, python 3.12.11
variables        none that changes results or times
memory free      76.53 GiB
clocks           multiprocessors 1980 MHz, memory 2619 MHz
temperature      34 C
power            121.3 W, at most 700 W
throttled by     power cap, hardware slowdown
other processes  process 4711 (2.1 GiB)

ceilings, measured
what                      rate  unit
copy, read and written  3030    GB/s
matrix product, fp32      51.0  TFLOP/s
matrix product, tf32     370    TFLOP/s
matrix product, bf16     785    TFLOP/s
matrix product, fp16     733    TFLOP/s
"""

CPU = """\
device       AMD EPYC 7763 (cpu x86_64), 2 cores, 15.6 GiB
versions     torch 2.13.0+cu130, triton missing, python 3.12.11
variables    OMP_NUM_THREADS=2
memory free  7.2 GiB

ceilings, measured
what                      rate  unit
copy, read and written  22.4    GB/s
matrix product, fp32     0.183  TFLOP/s
"""


def test_a_gpu() -> None:
    assert table.render(document(environment(), STATE, ceilings()), 100, False) == GPU


def test_a_cpu() -> None:
    its = device(kind="cpu", name="AMD EPYC 7763", capability="x86_64", memory_gib=15.6, units=2)
    here = environment(
        device=its, triton=None, driver=None, cuda=None, variables={"OMP_NUM_THREADS": "2"}
    )
    most = ceilings(copy_gb_s=22.4, gemm_tflops={"fp32": 0.183})
    text = table.render(document(here, DeviceState(memory_free_gib=7.2), most), 100, False)
    assert text == CPU


def test_what_is_not_known_is_said() -> None:
    note = "clocks, power and other processes are not known: No module named 'pynvml'."
    text = table.render(document(environment(), DeviceState(note=note), ceilings()), 100, False)
    assert "\nmemory free      not known\n" in text
    assert "\nclocks           multiprocessors not known, memory not known\n" in text
    assert "\npower            not known\n" in text
    assert "\nthrottled by     not known\n" in text
    assert text.endswith(f"\n- {note}\n")


def test_nothing_throttles_an_idle_gpu_of_ones_own() -> None:
    idle = DeviceState(throttle_reasons=(), other_processes=())
    text = table.render(document(environment(), idle, ceilings()), 100, False)
    assert "\nthrottled by     nothing\nother processes  none\n" in text


def test_json_is_one_flat_record_of_everything() -> None:
    (record,) = json.loads(render(environment(), STATE, ceilings(), "json"))
    assert set(asdict(STATE)) <= set(record)
    assert record["name"] == "NVIDIA H100 80GB HBM3"
    assert record["throttle_reasons"] == "power cap; hardware slowdown"
    assert (record["copy_gb_s"], record["gemm_bf16_tflops"]) == (3030.0, 785.0)


def test_what_is_not_known_is_null_in_json_and_empty_in_csv() -> None:
    (record,) = json.loads(render(environment(), DeviceState(), ceilings(), "json"))
    assert record["throttle_reasons"] is None
    assert record["power_w"] is None
    header, values = render(environment(), DeviceState(), ceilings(), "csv").splitlines()
    assert dict(zip(header.split(","), values.split(","), strict=True))["power_w"] == ""


FP16 = DotMode(
    mode="fp16", rows=16, operand_bits=11, operand_rounding="nearest", products_exact=True,
    accumulator_bits=24, accumulator_rounding="toward zero", guard_bits=2,
    subnormal_operands=True, subnormal_sums=True,
)  # fmt: skip

PRODUCTS = """
matrix products, as they were seen to round
operands  tile rows  bits kept  rounded  products  sums keep  rounded      guard bits  subnormals
fp16             16         11  nearest  exact            24  toward zero           2  kept
fp32             64         24  exact    rounded          24  nearest              3+  lost in sums

- bf16 products of 64 rows have no fingerprint: RuntimeError: no.
"""


def test_what_was_seen_of_the_products() -> None:
    fp32 = replace(
        FP16, mode="fp32", rows=64, operand_bits=24, operand_rounding="exact",
        products_exact=False, accumulator_rounding="nearest", guard_bits=3, subnormal_sums=False,
    )  # fmt: skip
    remark = "bf16 products of 64 rows have no fingerprint: RuntimeError: no."
    shown = document(environment(), STATE, ceilings(), [FP16, fp32], [remark])
    assert table.render(shown, 110, False) == GPU + PRODUCTS
    assert shown.frame["fingerprint"][0] == (
        "fp16 rows 16: operands 11 bits nearest, sums 24 bits toward zero; "
        "fp32 rows 64: operands 24 bits exact, sums 24 bits nearest"
    )
