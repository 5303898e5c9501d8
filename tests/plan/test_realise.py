"""In which configuration the kernel of a choice runs: as measured, carried, or its first."""

from collections.abc import Sequence

import pytest
from deciding import DECIDER, TARGET, Register, decode
from exact import Recorder, cpu_profile, rows

from autoprec.kernels.interface import Target
from autoprec.plan.decide import Decider
from autoprec.plan.decision import Asked
from autoprec.types import Config, Workload


def test_a_kernel_brings_a_configuration_to_another_workload(
    recorder: Recorder, register: Register
) -> None:
    def carried(config: Config, measured: Workload, it: Workload, target: Target) -> Config:
        assert config["block"] == 64
        assert target is TARGET
        return {"block": 64 * it.kv_len // measured.kv_len}

    register(recorder.kernel("exact", carried=carried))
    assert DECIDER.decide(decode(kv_len=4096), TARGET).config == {"block": 256}
    assert DECIDER.decide(decode(), TARGET).config == {"block": 64}
    unknown = Asked(known=False)
    assert DECIDER.decide(decode(kv_len=4096), TARGET, asked=unknown).config == {"block": 64}


def test_a_configuration_of_another_kind_of_workload_is_not_used(
    recorder: Recorder, register: Register
) -> None:
    def configs(path: str, workload: Workload, target: Target) -> Sequence[Config]:
        return [{"block": 64}] if workload.kv_len == 1024 else [{"block": 16, "programs": 1}]

    register(recorder.kernel("exact", configs=configs))
    assert DECIDER.decide(decode(), TARGET).config == {"block": 64}
    decision = DECIDER.decide(decode(kv_len=4096), TARGET)
    assert decision.config == {"block": 16, "programs": 1}
    assert decision.notes == (
        "exact has no configuration like the one measured, so its first configuration is used",
    )


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({"head_dim": 64, "head_dim_v": 33}, True),  # 33 is padded to 64
        ({"head_dim": 72}, False),
        ({"head_dim_v": 32}, False),
        ({"q_heads": 128}, True),  # 16 rows a KV head, and a block has at least that
        ({"q_heads": 136}, False),
        ({"q_len": 5}, False),
    ],
)
def test_a_block_of_another_size_takes_the_first_configuration(
    recorder: Recorder, register: Register, changes: dict[str, int], fits: bool
) -> None:
    register(recorder.kernel("exact"))
    decision = DECIDER.decide(decode(**changes), TARGET)
    note = (
        "the configuration measured is for blocks of another size, "
        "so its first configuration is used"
    )
    assert (note in decision.notes) == (not fits)
    assert decision.config == ({"block": 64} if fits else {"block": 16})
    assert decision.substituted == ""


def test_a_configuration_of_other_names_is_not_used(recorder: Recorder, register: Register) -> None:
    register(recorder.kernel("exact", configs=lambda path, workload, target: ({"tile": 8},)))
    decision = DECIDER.decide(decode(), TARGET)
    assert decision.config == {"tile": 8}
    assert decision.notes == (
        "exact has no configuration like the one measured, so its first configuration is used",
    )


@pytest.mark.parametrize(
    ("value", "used"), [(-1, 16), (0, 16), ("x", 16), (True, 16), (64, 64), (128, 128)]
)
def test_a_configuration_no_kernel_has_is_not_used(
    recorder: Recorder, register: Register, value: int | str, used: int
) -> None:
    register(recorder.kernel("exact"))
    decider = Decider.of(cpu_profile(rows(config={"block": value})), None)
    decision = decider.decide(decode(), TARGET)
    assert decision.config == {"block": used}
    assert decision.notes == (
        ()
        if used == value
        else (
            "exact has no configuration like the one measured, so its first configuration is used",
        )
    )
