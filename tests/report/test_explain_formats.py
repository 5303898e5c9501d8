"""An explanation for programs, and as markdown."""

import json
import re
from typing import Any

import pytest
from made_up import errors, measurement, profile, workload

from autoprec.commands import stored_options
from autoprec.report.explain import Launched, explain, explained
from autoprec.report.explain_formats import KEYS, render
from autoprec.types import Profile, Workload

DECODE = {"phase": "decode", "batch": 16, "kv_len": 8192, "input_dtype": "bf16"}


def as_json(made: Profile, *workloads: Workload, launch: Any = lambda it: None) -> Any:
    return json.loads(render((explained(made, it, launch) for it in workloads), "json"))


def test_every_key_of_a_measured_workload() -> None:
    drawn = {"n_draws": 64, "bounds": {"gauss": errors(4e-4)}}
    rows = [
        measurement("fp16", 0.341, 3.9e-4, **drawn),
        measurement("fp32", 16.9, 5.4e-7, n_draws=64),
        measurement("sdpa-efficient", 3.41, 5.4e-7),
    ]
    (found,) = as_json(profile(rows), workload())
    assert list(found) == list(KEYS)
    assert found == {
        "workload": "prefill b1 q4096 kv4096 32/8 d128 causal fp32",
        "measured": True,
        "nearest": None,
        "budget": "rel_l2<=0.01",
        "path": "fp16",
        "kernel": "triton-prefill",
        "config": {"block_q": 128, "block_kv": 64, "num_warps": 8},
        "storage": "fp32",
        "p20_ms": 0.98 * 0.341,
        "p50_ms": 0.341,
        "p80_ms": 1.03 * 0.341,
        "workspace_gib": 0.125,
        "baseline": "sdpa-efficient",
        "speedup": 10.0,
        "margin": 25.0,
        "errors": {"gauss": errors(3.9e-4), "outlier": errors(1.95e-4)},
        "bounds": {"gauss": errors(4e-4)},
        "n_draws": 64,
        "sentences": ["Use fp16: the fastest path within the budget."],
        "notes": [],
        "rejected": {
            "sdpa-efficient": "10.00x slower than fp16: 3.41 ms against 0.341 ms",
            "fp32": "49.56x slower than fp16: 16.9 ms against 0.341 ms",
        },
        "command": "autoprec tune --phase prefill --batch 1 --kv-len 4096 --heads 32/8 --head-dim "
        "128 --mask causal --input-dtype fp32 --out-dtype fp32",
    }


def test_of_a_refused_workload_nothing_is_to_be_used_and_the_keys_are_there() -> None:
    refused, taken = as_json(profile(budget="1e-3"), workload(**DECODE), workload())
    assert list(refused) == list(taken) == list(KEYS)
    assert taken["path"] == "fp16"
    missing = [key for key in KEYS if refused[key] is None]
    assert missing == [
        "nearest", "path", "kernel", "config", "storage", "p20_ms", "p50_ms", "p80_ms",
        "workspace_gib", "baseline", "speedup", "margin", "errors", "bounds", "n_draws",
    ]  # fmt: skip
    assert refused["sentences"] == ["No path keeps to the budget on this workload."]
    assert list(refused["rejected"]) == ["sdpa-cudnn", "bf16"]


@pytest.mark.parametrize("kernel", ["spare", ""])
def test_what_a_plan_launches_for_what_was_not_measured(kernel: str) -> None:
    launched = Launched(kernel, {"block": 16} if kernel else {}, ("it is too large",))
    made = profile([measurement("fp16")])
    (found,) = as_json(made, workload(window=1024), launch=lambda it: launched)
    assert not found["measured"]
    assert found["notes"] == ["it is too large"]
    assert (found["path"], found["kernel"], found["config"]) == (
        ("fp16", "spare", {"block": 16}) if kernel else (None, None, None)
    )
    assert found["nearest"] == "prefill b1 q4096 kv4096 32/8 d128 causal fp32"
    assert found["p50_ms"] == (1.0 if kernel else None)
    assert (found["command"] is not None) == bool(kernel)


def test_a_table_is_the_text_and_markdown_has_the_same_facts() -> None:
    both = [explained(profile(), it) for it in (workload(), workload(**DECODE))]
    assert render(both, "table") == "\n".join(
        explain(profile(), it.workload, colour=False) for it in both
    )
    text = render(both, "markdown")
    assert text.startswith("- **workload**: prefill b1 q4096 kv4096 32/8 d128 causal fp32\n- **dev")
    assert "\n```\nautoprec tune --phase decode --batch 16 " in text
    assert render([], "json") == "[]\n"


def test_the_help_has_the_keys_in_their_order() -> None:
    (option,) = stored_options.ExplainFormats.__metadata__
    listed = re.sub(r"\([^)]*\)", "", option.help.partition("whose keys are ")[2])
    assert re.findall(r"\w+", listed.partition(";")[0].replace(" and ", " ")) == list(KEYS)
