"""What is shown while tuning."""

import io
import time

import made_up
from rich.console import Console

from autoprec.budget import Budget
from autoprec.commands.progress import Display
from autoprec.probe.events import Event, Measured, Planned, Remark, Working
from autoprec.types import Conversion, Status

DECODE = made_up.workload(phase="decode")
PREFILL = made_up.workload()

EVENTS: list[Event] = [
    Planned(7),
    Working(DECODE, "timing fp32"),
    Measured(made_up.measurement("fp32", 2.0, 5e-7, workload=DECODE)),
    Measured(
        made_up.measurement("fp16", 0.1, 3e-4, workload=DECODE, conversion=Conversion.AMORTISED)
    ),
    Measured(made_up.measurement("fp16", 0.51234, 3e-4, workload=DECODE)),
    Measured(made_up.measurement("bf16", 0.1, 3e-2, workload=DECODE)),
    Measured(made_up.measurement("sdpa-flash", 0.25, 5e-7, workload=DECODE)),
    Remark("others use the GPU: python."),
    Working(PREFILL, "timing bf16"),
    Measured(made_up.measurement("bf16", 1.0, 3e-2, workload=PREFILL)),
    Measured(
        made_up.measurement("fp32", None, workload=PREFILL, status=Status.SKIPPED, reason="time")
    ),
]


def shown(
    events: list[Event], *, terminal: bool = False, allow_baselines: bool = False, left: float = 75
) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120, color_system=None)
    display = Display(
        Budget.parse("1e-2"), time.monotonic() + left, console, allow_baselines=allow_baselines
    )
    with display:
        for event in events:
            display(event)
    return file.getvalue()


def test_without_a_terminal_there_is_a_line_for_each_workload() -> None:
    assert shown(EVENTS) == (
        "note: others use the GPU: python.\n"
        "decode b1 q1 kv4096 32/8 d128 causal fp32: fp16 takes 0.512 ms, rel_l2 3.0e-04\n"
        "prefill b1 q4096 kv4096 32/8 d128 causal fp32: nothing within rel_l2<=0.01\n"
    )


def test_a_baseline_is_the_best_only_where_it_may_be_chosen() -> None:
    assert "sdpa-flash takes 0.25 ms" in shown(EVENTS, allow_baselines=True)


def test_a_workload_on_which_nothing_ran_and_one_without_time_say_so() -> None:
    refused = made_up.measurement(
        "fp32", None, workload=DECODE, status=Status.UNSUPPORTED, reason="no kernel runs [it]"
    )
    late = made_up.measurement(
        "fp32", None, workload=PREFILL, status=Status.SKIPPED, reason="there was no time"
    )
    assert shown([Measured(refused), Measured(late)]) == (
        "decode b1 q1 kv4096 32/8 d128 causal fp32: nothing ran\n"
        "prefill b1 q4096 kv4096 32/8 d128 causal fp32: no time\n"
    )


def test_in_a_terminal_there_is_a_bar_with_what_is_done_and_the_time_left() -> None:
    events = [*EVENTS[:5], Working(DECODE, "drawing gauss inputs")]
    text = shown(events, terminal=True)
    assert "decode b1 q1 kv4096 32/8 d128 causal fp32: drawing gauss inputs" in text
    assert "3/7" in text
    assert "1:15 left at most" in text or "1:14 left at most" in text
    assert "0:00 left at most" in shown(events, terminal=True, left=-3)


def test_consistent_mode_has_lines_of_its_own() -> None:
    events: list[Event] = [
        Planned(1),
        Measured(made_up.measurement("bf16", 1.0, 3e-3, workload=PREFILL)),
        Planned(2),
        Measured(made_up.measurement("bf16", 1.5, 3e-3, workload=PREFILL, consistent=True)),
        Measured(
            made_up.measurement(
                "bf16", None, workload=DECODE, consistent=True, status=Status.SKIPPED,
                reason="there was no time for it",
            )
        ),
    ]  # fmt: skip
    assert shown(events).splitlines()[-3:] == [
        f"{PREFILL}: bf16 takes 1 ms, rel_l2 3.0e-03",
        f"{PREFILL}: bf16 in consistent mode takes 1.5 ms",
        f"{DECODE}: bf16 in consistent mode: skipped",
    ]
