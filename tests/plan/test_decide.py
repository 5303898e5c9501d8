"""What runs for a workload: the nearest choice, and what takes its place where it cannot."""

import made_up
import pytest
from deciding import DECIDER, TARGET, Register, decode
from exact import Recorder, cpu_profile, rows

from autoprec.budget import Budget
from autoprec.errors import BudgetError, InputError, UnsupportedError
from autoprec.plan.decide import Decider
from autoprec.plan.decision import phase_of
from autoprec.types import Phase, Status


def test_what_was_measured_runs_as_it_was_measured(recorder: Recorder, register: Register) -> None:
    register(recorder.kernel("exact"))
    decision = DECIDER.decide(decode(), TARGET)
    assert (decision.path, decision.kernel.name) == ("bf16", "exact")
    assert decision.config == {"block": 64}
    assert (decision.found.exact, decision.notes, decision.substituted) == (True, (), "")


def test_a_nearest_workload_is_noted(recorder: Recorder, register: Register) -> None:
    register(recorder.kernel("exact"))
    decision = DECIDER.decide(decode(kv_len=1500, batch=2), TARGET)
    assert decision.config == {"block": 64}
    assert (decision.found.exact, decision.notes) == (False, ())
    assert "kv_len 1500 instead of 1024" in decision.found.note


def test_another_kernel_of_the_path_takes_over(recorder: Recorder, register: Register) -> None:
    register(
        recorder.kernel("exact", max_head_dim=32),
        recorder.kernel("elsewhere", device="triton"),
        recorder.kernel("spare"),
    )
    decision = DECIDER.decide(decode(), TARGET)
    assert decision.kernel.name == "spare"
    assert decision.config == {"block": 16}
    assert decision.substituted == (
        "exact was chosen but cannot run this (exact takes head dims up to 32, not 64), "
        "so spare runs the same path"
    )
    assert decision.notes == (
        decision.substituted,
        "spare was not measured here, so its first configuration is used",
    )


def test_a_kernel_that_is_gone_is_replaced(recorder: Recorder, register: Register) -> None:
    register(recorder.kernel("spare"), broken={"decode": "no module named triton"})
    decision = DECIDER.decide(decode(), TARGET)
    assert decision.kernel.name == "spare"
    assert decision.substituted == (
        "exact was chosen but cannot run this (there is no kernel 'exact' here: "
        "no module named triton), so spare runs the same path"
    )


def test_no_kernel_at_all_names_every_reason(recorder: Recorder, register: Register) -> None:
    register(
        recorder.kernel("exact", max_head_dim=32),
        recorder.kernel("spare", phases=(Phase.PREFILL,)),
    )
    with pytest.raises(UnsupportedError) as caught:
        DECIDER.decide(decode(), TARGET)
    assert str(caught.value) == (
        "no kernel runs the path bf16 on decode b1 q1 kv1024 32/8 d64 causal fp32: "
        "exact takes head dims up to 32, not 64; spare serves prefill, not decode. "
        "Try: autoprec paths"
    )


def test_what_several_kernels_say_is_said_once(recorder: Recorder, register: Register) -> None:
    more = {"paths": ("bf16p2",), "max_head_dim": 32}
    register(
        recorder.kernel("exact", **more), recorder.kernel("other", phases=(Phase.PREFILL,), **more)
    )
    row = made_up.measurement("bf16p2", 1.0, 3e-3, workload=decode(), kernel="exact")
    with pytest.raises(UnsupportedError) as caught:
        Decider.of(cpu_profile([row]), None).decide(decode(), TARGET)
    assert caught.value.sentence == (
        "no kernel runs the path bf16p2 on decode b1 q1 kv1024 32/8 d64 causal fp32: "
        "bf16p2 is for bf16 inputs, not fp32; exact takes head dims up to 32, not 64; "
        "other serves prefill, not decode; other takes head dims up to 32, not 64."
    )


def test_a_decode_of_many_tokens_is_sent_to_append(recorder: Recorder, register: Register) -> None:
    register(recorder.kernel("exact", phases=(Phase.DECODE,)))
    with pytest.raises(UnsupportedError) as caught:
        DECIDER.decide(decode(q_len=17), TARGET)
    assert str(caught.value) == (
        "no kernel runs the path bf16 on decode b1 q17 kv1024 32/8 d64 causal fp32: "
        "exact takes q_len up to 16. Try: append for more than 16 new tokens"
    )


def with_baseline(**errors: float) -> Decider:
    table = rows() + [
        made_up.measurement("sdpa-math", 0.1, errors.get("baseline", 5e-7), workload=decode()),
    ]
    return Decider.of(cpu_profile(table, allow_baselines=True), None)


def test_a_baseline_runs_where_it_was_allowed(recorder: Recorder, register: Register) -> None:
    register(recorder.kernel("exact"))
    decision = with_baseline().decide(decode(), TARGET)
    assert (decision.path, decision.kernel.name) == ("sdpa-math", "torch-sdpa")
    assert decision.config == {}


def test_a_baseline_gives_way_to_the_best_path(recorder: Recorder, register: Register) -> None:
    register(recorder.kernel("exact"))
    decision = with_baseline().decide(decode(), TARGET, no_baseline="gives no LSE")
    assert (decision.path, decision.kernel.name) == ("bf16", "exact")
    assert decision.substituted == "sdpa-math was chosen but gives no LSE, so bf16 runs"
    assert decision.notes == (decision.substituted,)


def test_a_budget_chooses_again(recorder: Recorder, register: Register) -> None:
    register(recorder.kernel("exact"))
    strict = Decider.of(cpu_profile(), Budget.parse(1e-5))
    assert strict.decide(decode(), TARGET).path == "fp32"


def test_a_budget_that_the_nearest_workload_cannot_keep(
    recorder: Recorder, register: Register
) -> None:
    register(recorder.kernel("exact"))
    table = [row for row in rows() if row.workload.phase is Phase.DECODE]
    far = decode(kv_len=1 << 20)
    table.append(made_up.measurement("bf16", 1.0, 0.5, workload=far, kernel="exact"))
    decider = Decider.of(cpu_profile(table), None)
    assert decider.decide(decode(kv_len=2048), TARGET).path == "bf16"
    with pytest.raises(BudgetError):
        decider.decide(decode(kv_len=1 << 19), TARGET)


def test_a_budget_that_nothing_keeps_is_refused_at_once() -> None:
    one = [row for row in rows() if row.workload == decode()]
    absent = {"status": Status.UNSUPPORTED, "reason": "it needs a GPU", "kernel": "elsewhere"}
    one.append(made_up.measurement("tf32", workload=decode(), **absent))
    with pytest.raises(BudgetError) as caught:
        Decider.of(cpu_profile(one), Budget.parse(1e-12))
    assert str(caught.value) == (
        "no path keeps to the budget of rel_l2<=1e-12 on any workload of the profile; "
        "on decode b1 q1 kv1024 32/8 d64 causal fp32: "
        "bf16: rel_l2 3.00e-03 on gauss is over the budget of 1e-12; "
        "fp32: rel_l2 5.00e-07 on gauss is over the budget of 1e-12. "
        "Try: a looser budget"
    )


def test_a_profile_on_which_nothing_runs_is_not_refused_for_its_budget() -> None:
    absent = {"status": Status.UNSUPPORTED, "reason": "it needs a GPU", "kernel": "elsewhere"}
    none = made_up.measurement("bf16", workload=decode(kv_len=7), **absent)
    with pytest.raises(BudgetError) as caught:
        Decider.of(cpu_profile([none]), None)
    assert str(caught.value) == (
        "no path runs on any workload of the profile; on decode b1 q1 kv7 32/8 d64 causal fp32: "
        "bf16: unsupported: it needs a GPU. Try: autoprec paths, which says what runs"
    )
    over = made_up.measurement("fp32", 1.0, 5e-7, workload=decode(), kernel="exact")
    with pytest.raises(BudgetError) as caught:
        Decider.of(cpu_profile([none, over]), Budget.parse(1e-12))
    assert str(caught.value) == (
        "no path keeps to the budget of rel_l2<=1e-12 on any workload of the profile; "
        "on decode b1 q1 kv1024 32/8 d64 causal fp32: "
        "fp32: rel_l2 5.00e-07 on gauss is over the budget of 1e-12. Try: a looser budget"
    )


def test_a_profile_without_choices_is_refused() -> None:
    with pytest.raises(InputError, match="nothing was measured"):
        Decider.of(cpu_profile([]), None)


@pytest.mark.parametrize(
    ("q_len", "kv_len", "named", "expected"),
    [
        (1, 1, None, Phase.DECODE),
        (16, 17, None, Phase.DECODE),
        (16, 16, None, Phase.PREFILL),
        (17, 18, None, Phase.APPEND),
        (18, 17, None, Phase.PREFILL),
        (17, 18, Phase.DECODE, Phase.DECODE),
        (2, 18, Phase.APPEND, Phase.APPEND),
        (2, 18, Phase.PREFILL, Phase.APPEND),
        (2, 2, Phase.APPEND, Phase.PREFILL),
        (1, 2, Phase.APPEND, Phase.DECODE),
    ],
)
def test_phase(q_len: int, kv_len: int, named: Phase | None, expected: Phase) -> None:
    assert phase_of(q_len, kv_len, named) is expected


def safe_of(*measured: tuple[int, str, float, int]) -> Decider:
    """Of head dim, path, error and block, beside fp16x3, which alone keeps to the budget."""
    table = [
        made_up.measurement(path, 1.0, error, workload=decode(head_dim=head_dim), kernel="exact",
                            config={"block": block})
        for head_dim, path, error, block in (*measured, (64, "fp16x3", 4e-7, 64))
    ]  # fmt: skip
    return Decider.of(cpu_profile(table, budget="rel_l2<=1e-6"), None)


@pytest.mark.parametrize(
    ("head_dim", "block", "notes"),
    [
        (64, 64, ()),
        (256, 32, ()),  # the row of its own size, which is not the most accurate
        (
            128,
            16,
            (
                "the configuration measured is for blocks of another size, "
                "so its first configuration is used",
            ),
        ),
    ],
)
def test_a_safe_path_over_the_budget_takes_no_configuration_of_another_size(
    recorder: Recorder, register: Register, head_dim: int, block: int, notes: tuple[str, ...]
) -> None:
    register(recorder.kernel("exact"))
    decider = safe_of((64, "bf16x3", 6e-6, 64), (256, "bf16x3", 7e-6, 32), (256, "bf16", 3e-3, 8))
    decision = decider.decide_safe(decode(head_dim=head_dim), TARGET)
    assert (decision.path, decision.config) == ("bf16x3", {"block": block})
    assert decision.notes == ("no path with fp32's range is in budget", *notes)
    assert decision.found.choice.margin == pytest.approx(1e-6 / (7e-6 if head_dim == 256 else 6e-6))


def test_the_safe_path_where_none_was_measured_is_fp32(
    recorder: Recorder, register: Register
) -> None:
    register(recorder.kernel("exact"))
    decision = safe_of().decide_safe(decode(head_dim=64), TARGET)
    assert (decision.path, decision.config) == ("fp32", {"block": 16})
    assert decision.notes == (
        "no path with fp32's range is in budget",
        "exact was not measured here, so its first configuration is used",
    )


def test_a_safe_path_takes_a_kernel_of_several_chips_where_that_is_asked_for(
    recorder: Recorder, register: Register
) -> None:
    one, several = recorder.kernel("one"), recorder.kernel("several", architectures=("a", "b"))
    register(one, several)
    table = [
        made_up.measurement(path, ms, 1e-6, workload=decode(), kernel=name, config={"block": 16})
        for name, path, ms in (
            ("one", "fp16", 1.0), ("one", "bf16x3", 2.0), ("several", "bf16x3", 3.0)
        )
    ]  # fmt: skip
    decider = Decider.of(cpu_profile(table), None)
    assert decider.decide_safe(decode(), TARGET).kernel.name == "one"
    assert decider.decide_safe(decode(), TARGET, portable=True).kernel.name == "several"
    alone = Decider.of(cpu_profile(table[:2]), None)
    assert alone.decide_safe(decode(), TARGET, portable=True).kernel.name == "one"
