"""Launches by the thousand on several streams: none hangs, and the last are as right as the first.

On a GPU that is the Hopper kernel, whose warps wait for one another; its calls go by the ten
thousand. On a CPU the same is asked of the kernel for other chips, in the interpreter.
"""

import re
from dataclasses import replace

import pytest
import torch
from launch_storm import Size, Storm, inputs_of, variants, watched

from autoprec import registry
from autoprec.kernels.interface import Call
from autoprec.types import Config

_TIMEOUT_S = 400  # alone up to 60, most of it compiling; beside other tests several times as much

_FEW = Size(launches=12, longest=40, every=5, streams=2)


@pytest.mark.cuda
@pytest.mark.parametrize("path", registry.kernel("hopper-prefill").paths)
def test_ten_thousand_launches(path: str) -> None:
    row = registry.kernel("hopper-prefill")
    from autoprec.probe.device import target

    if refusals := row.device_refusals(target(torch.device("cuda"))):
        pytest.skip("; ".join(refusals))
    code = f"from launch_storm import on_a_gpu; on_a_gpu({row.name!r}, {path!r})"
    assert re.match(r"1700 launches, \d\d results checked", watched(code, _TIMEOUT_S))


@pytest.mark.parametrize("path", ["fp16x3", "bf16", "fp16p2"])
def test_a_few_launches(path: str) -> None:
    row = registry.kernel("triton-prefill")
    storm = Storm(row, path, inputs_of(row, path), "cpu", _FEW)
    storm.run()
    assert storm.checks >= 4


_TOLD = {
    "a column": "^output at ",
    "an element too many": "^a call has written too much, too little",
    "one too few": "^(output at|a call has written too much, too little)",
    "the range": r"^N\(0, 1\) has lost",
}


@pytest.mark.parametrize("wrong", _TOLD)
def test_what_is_wrong_is_noticed(wrong: str) -> None:
    row = registry.kernel("triton-prefill")

    def run(call: Call, path: str, config: Config) -> None:
        row.run(call, path, config)
        runs = call.only_if is None or bool(call.only_if)
        if wrong == "a column":
            call.out[..., 3] *= 1 + 1e-4
        if wrong == "an element too many" and not runs:
            call.out[0, 0, -1, 0] = 0.0
        if wrong == "one too few" and runs:
            call.out[0, 0, -1, 0] = -77.0
        if wrong == "the range" and call.lost is not None:
            call.lost.add_(1)

    with pytest.raises(AssertionError, match=_TOLD[wrong]):
        Storm(replace(row, run=run), "fp16x3", inputs_of(row, "fp16x3"), "cpu", _FEW).run()


def test_what_hangs_is_ended_and_what_fails_fails() -> None:
    assert watched("print(7)", 60) == "7\n"
    with pytest.raises(AssertionError, match=r"^it did not end within 1 s: import time"):
        watched("import time; time.sleep(600)", 1)
    with pytest.raises(AssertionError, match=r"^it ended with 1: (?s:.)*AssertionError: wrong"):
        watched("raise AssertionError('wrong')", 60)


def test_every_variant_is_one_that_a_path_has() -> None:
    row = registry.kernel("hopper-prefill")
    counts = {path: len(variants(path, inputs_of(row, path))) for path in row.paths}
    assert counts == {
        "fp16x3": 5, "bf16x3": 5, "bf16": 5, "bf16p2": 3, "fp16": 5, "fp16p2": 3,
    }  # fmt: skip
