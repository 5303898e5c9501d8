"""Profiles on fresh draws: choices hold, and what no longer holds is found."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import made_up
import pytest
import torch
from fake_kernels import fake, right, workload
from torch import Tensor

from autoprec import profile as profiles
from autoprec import registry
from autoprec import verify as verifying
from autoprec.budget import Budget
from autoprec.commands import verify as command
from autoprec.errors import InputError, MachineError
from autoprec.kernels.interface import Call, Kernel
from autoprec.policy.choose import choose
from autoprec.policy.fit import Match, compare
from autoprec.probe import lineup, peers
from autoprec.probe import measure as measuring
from autoprec.probe.baselines import Baseline
from autoprec.probe.contender import Contender
from autoprec.probe.device import environment
from autoprec.probe.families import FAMILIES, Family, Group, Inputs
from autoprec.probe.peer import row as peer
from autoprec.tune import tune
from autoprec.types import (
    Choice,
    Config,
    Conversion,
    Dtype,
    Phase,
    Profile,
    Role,
    Status,
    Workload,
)
from autoprec.verify import verify

CPU = torch.device("cpu")
SMALL = {"q_heads": 4, "kv_heads": 4, "head_dim": 32}
GRID = [
    workload(kv_len=150, **SMALL),
    workload(phase=Phase.PREFILL, q_len=60, kv_len=60, **SMALL),
]


def tuned(workloads: list[Workload], device: torch.device, **asked: Any) -> Profile:
    return tune(workloads, device=device, budget=Budget.parse("1e-2"), **asked)


def at(profile: Profile, budget: str) -> Profile:
    """The profile with its choices made again for a budget, as when that is given at load."""
    parsed = Budget.parse(budget)
    choices, refusals = choose(profile.measurements, parsed, confidence=profile.confidence)
    return dataclasses.replace(profile, budget=str(parsed), choices=choices, refusals=refusals)


def budgets(profile: Profile) -> Iterator[str]:
    """Round ones, and the hardest there are: what each path's draws have just kept to."""
    yield from ("1e-1", "1e-2", "row_rel.p999<=2e-1,lse_abs<=5e-2")
    for path in ("bf16", "tf32"):
        rows = [row for row in profile.measurements if row.path == path and row.n_draws]
        bounds = [max(b["rel_l2"] for b in row.bounds.values()) for row in rows]
        yield repr(max(bounds))


@pytest.fixture(scope="module")
def grid() -> Profile:
    return tuned(GRID, CPU, paths=("tf32", "bf16"), time_limit_s=200.0)


def _students(workload: Workload, seed: int, device: torch.device) -> Inputs:
    """Heavy tails: t with 3 degrees of freedom."""
    inputs = FAMILIES["gauss"].draw(workload, seed, device)
    draw = torch.Generator(device).manual_seed(seed)

    def heavy(x: Tensor) -> Tensor:
        squares = torch.randn((3, *x.shape), generator=draw, device=device).square().mean(0)
        return (x.float() / squares.sqrt().clamp_min(0.05)).to(x.dtype)

    q, k, v = (heavy(x) for x in inputs[:3])
    return Inputs(q, k, v, inputs.sm_scale)


def _low_rank(workload: Workload, seed: int, device: torch.device) -> Inputs:
    """Keys and queries in a space of few dimensions, as after training."""
    q, k, v, scale = FAMILIES["gauss"].draw(workload, seed, device)
    draw = torch.Generator(device).manual_seed(seed)
    basis = torch.randn((q.shape[-1], 4), generator=draw, device=device) / 2
    for x in (q, k):
        x.copy_(x.float() @ basis @ basis.T)
    return Inputs(q, k, v, scale)


def _biased_values(workload: Workload, seed: int, device: torch.device) -> Inputs:
    """Values that share an offset, and decay along the keys."""
    q, k, v, scale = FAMILIES["gauss"].draw(workload, seed, device)
    decay = torch.linspace(0, 3, v.shape[2], device=device).neg().exp()
    v.copy_((v.float() + 2) * decay[:, None])
    return Inputs(q, k, v, scale)


UNSEEN = {
    name: Family(Group.TYPICAL, draw, name)
    for name, draw in {
        "student": _students, "low rank": _low_rank, "biased values": _biased_values,
    }.items()
}  # fmt: skip


def assert_budgets_hold(profile: Profile, device: torch.device) -> None:
    """Pooled over budgets and workloads: 5 % over at most, none over twice; unseen ones told."""
    over = draws = 0
    for number, budget in enumerate(budgets(profile)):
        chosen = at(profile, budget)
        if not chosen.choices:
            continue
        found = verify(chosen, device=device, seed=1000 + number, time_limit_s=200.0)
        for check in found.checks:
            assert check.now.status is Status.OK, check.now.reason
            assert not check.far_over, (budget, str(check.worst))
        over, draws = over + found.over, draws + found.draws
    assert draws > 1000
    assert over <= 0.05 * draws, (over, draws)


def assert_unseen_families_stay_below_twice(profile: Profile, device: torch.device) -> None:
    for budget in ("1e-1", "1e-2"):
        chosen = at(profile, budget)
        found = verify(chosen, device=device, seed=2000, families=UNSEEN, time_limit_s=200.0)
        for check in found.checks:
            assert check.now.status is Status.OK, check.now.reason
            assert not check.far_over, (budget, str(check.worst))
            print(f"{budget} {check.choice.path}: {check.over} of {check.draws}; {check.worst}")


def test_a_grid_of_budgets_and_workloads_holds_on_fresh_draws(grid: Profile) -> None:
    assert grid.confidence == 0.95
    assert_budgets_hold(grid, CPU)


def test_families_that_were_never_tuned_on(grid: Profile) -> None:
    assert_unseen_families_stay_below_twice(grid, CPU)


def default_profile(device: torch.device) -> Profile:
    """The one that was recorded on such a device with these kernels, or a small one made now."""
    here = environment(device)
    recorded = (profiles.read(file) for file in profiles.bundled())
    ours = [it for it in recorded if compare(it, here).match in (Match.EXACT, Match.COMPATIBLE)]
    if ours:
        return ours[0]
    sizes = {"q_heads": 32, "kv_heads": 8, "head_dim": 128}
    return tuned(
        [
            workload(kv_len=1024, **sizes),
            workload(batch=16, kv_len=4096, **sizes),
            workload(phase=Phase.PREFILL, q_len=2048, kv_len=2048, **sizes),
            workload(phase=Phase.APPEND, q_len=512, kv_len=4096, **sizes),
        ],
        device,
        time_limit_s=200.0,
    )


@pytest.mark.cuda
def test_a_grid_holds_on_a_gpu() -> None:
    gpu = torch.device("cuda", 0)
    profile = default_profile(gpu)
    assert_budgets_hold(profile, gpu)
    assert_unseen_families_stay_below_twice(profile, gpu)


# What no longer holds


@pytest.fixture
def have(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Put kernels in the registry's place; no baselines."""
    monkeypatch.setattr(lineup, "BASELINES", ())

    def put(*kernels: Kernel) -> None:
        monkeypatch.setattr(registry, "_load", lambda: (kernels, {}))

    return put


@dataclasses.dataclass
class Clock:
    """Everything takes as long: what is measured here must not hang on what else is running."""

    ms: float = 1.0

    def sample_ms(self, call: Callable[[], object]) -> float:
        call()
        return self.ms


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Clock:
    """In place of the device's own, but for tests of a grid."""
    found = Clock()
    if "have" in request.fixturenames:
        monkeypatch.setattr(measuring, "timer", lambda device: found)
    return found


DECODE = workload(kv_len=100)


def made(have: Callable[..., None]) -> Profile:
    have(fake("one", paths=("bf16",)))
    return tuned([DECODE], CPU, paths=("bf16",), families=("gauss",), time_limit_s=60.0)


def again(profile: Profile, **asked: Any) -> Any:
    return verify(profile, device=CPU, seed=7, time_limit_s=60.0, **asked)


def test_a_kernel_that_became_worse_is_over_the_budget(have: Callable[..., None]) -> None:
    def worse(call: Call, path: str, config: Config) -> None:
        right(call, path, config)
        call.out.mul_(1.011)

    profile = made(have)
    assert again(profile).holds
    have(fake("one", worse, paths=("bf16",)))
    found = again(profile)
    assert not found.holds
    assert found.draws > 59
    assert found.over > 0.9 * found.draws  # noise may bring one back below


def test_a_kernel_that_breaks_is_told(have: Callable[..., None]) -> None:
    def breaks(call: Call, path: str, config: Config) -> None:
        raise RuntimeError("gone")

    profile = made(have)
    have(fake("one", breaks, paths=("bf16",)))
    (check,) = again(profile).checks
    assert check.trouble == "RuntimeError: gone"


def test_a_kernel_that_became_slower_is_told(have: Callable[..., None], clock: Clock) -> None:
    profile = made(have)
    clock.ms = 1.09
    assert again(profile).holds
    clock.ms = 1.2
    found = again(profile)
    assert not found.holds
    assert found.checks[0].trouble == "slower: 1.2 ms, and 1 ms in the profile"


def test_another_library_that_was_chosen_is_run_again_or_said_to_be_gone(
    have: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def bind(call: Call, path: str) -> Callable[[], Tensor]:
        def run() -> Tensor:
            right(call, path, {})
            return call.out

        return run

    have()
    library = peer(
        name="library", library="xformers", bind=bind, refuses=lambda workload: [],
        input_dtypes=tuple(Dtype),
    )  # fmt: skip
    monkeypatch.setattr(Baseline, "refusals", lambda *args, **asked: [])
    monkeypatch.setattr(lineup, "BASELINES", (library,))
    monkeypatch.setattr(peers, "PEERS", (library,))
    profile = tuned(
        [DECODE], CPU, paths=("bf16",), families=("gauss",), time_limit_s=60.0,
        allow_baselines=True,
    )  # fmt: skip
    assert [choice.path for choice in profile.choices] == ["library"]
    monkeypatch.setattr(peers, "version", lambda name: "1.0")
    assert again(profile).holds
    monkeypatch.setattr(peers, "version", lambda name: None)
    (check,) = again(profile).checks
    assert check.trouble == "xformers is not installed"


def drawn(path: str, rel_l2: float) -> Contender:
    """What ran once, and has had three draws of gauss with the same error."""
    errors = made_up.errors(rel_l2)
    baseline = path.startswith("sdpa-")
    it = Contender(
        role=Role.BASELINE if baseline else Role.CANDIDATE, path=path, name=path, workload=DECODE,
        conversion=Conversion.NONE, samples=[1.0], errors={"gauss": errors},
    )  # fmt: skip
    it.by_head["gauss"] = {metric: [value] * 3 for metric, value in errors.items()}
    return it


@pytest.mark.parametrize(
    ("budget", "paths", "over"),
    [
        ("ratio:torch<=2", {"bf16": 3e-3, "sdpa-math": 1e-3, "sdpa-flash": 1e-2}, 3),
        ("ratio:torch<=4", {"bf16": 3e-3, "sdpa-math": 1e-3, "sdpa-flash": 1e-2}, 0),
        ("ratio:torch<=1", {"sdpa-math": 1e-3}, 0),  # PyTorch's own, chosen, is its own reference
        ("ratio:fp32<=2", {"bf16": 3e-3, "fp32": 2e-3, "sdpa-math": 1e-5}, 0),
    ],
)
def test_a_ratio_is_over_the_least_error_of_what_it_compares_with(
    budget: str, paths: dict[str, float], over: int
) -> None:
    contenders = [drawn(path, rel_l2) for path, rel_l2 in paths.items()]
    row = contenders[0].measurement()
    choice = Choice(
        workload=DECODE, path=row.path, kernel=row.kernel, config={}, storage=row.storage,
        margin=1.0, rejected={},
    )  # fmt: skip
    check = verifying._check(choice, row, contenders, Budget.parse(budget))
    assert (check.draws, check.over) == (3, over)


def test_a_stale_profile_and_one_without_choices_are_refused(have: Callable[..., None]) -> None:
    profile = made(have)
    with pytest.raises(InputError, match="no choices to verify"):
        again(dataclasses.replace(profile, choices=[]))
    stale = dataclasses.replace(profile.environment, kernels="other")
    with pytest.raises(MachineError, match="the profile is stale: autoprec's kernels changed"):
        again(dataclasses.replace(profile, environment=stale))
    other = dataclasses.replace(profile.environment.device, name="Another")
    elsewhere = dataclasses.replace(profile.environment, device=other)
    with pytest.raises(MachineError, match="the profile is another machine's"):
        again(dataclasses.replace(profile, environment=elsewhere))


def test_the_command_prints_a_row_for_each_choice_and_exits(
    have: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "machine.json"
    profiles.write(made(have), file)

    def run() -> int:
        return command.run(
            file, device="cpu", seed=7, time_limit_s=60.0, format="csv", started=time.monotonic()
        )

    assert run() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("workload,path,kernel,draws,over,worst_of_budget,worst_family")
    assert len(lines) == 2
    have(fake("one", lambda call, path, config: None, paths=("bf16",)))
    assert run() == 1
    assert "NaN or infinity" in capsys.readouterr().out
