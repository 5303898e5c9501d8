import importlib
from types import SimpleNamespace
from typing import Any

import pytest
from fake_kernels import fake, workload

from autoprec import registry
from autoprec.kernels.interface import Call, Kernel, Launch, Target
from autoprec.probe.compile import Built, Task
from autoprec.types import Config

driver = pytest.importorskip("triton.runtime.driver").driver
offline = importlib.import_module("autoprec.probe.offline")
compile_worker = importlib.import_module("autoprec.probe.compile_worker")

SM_90 = Target(kind="cuda", arch="sm_90", shared_bytes=232448, units=132)
GFX942 = Target(kind="hip", arch="gfx942", shared_bytes=65536, units=304)
GFX1100 = Target(kind="hip", arch="gfx1100", shared_bytes=65536, units=96)


class Jit:
    """As much of a jit function as is compiled; it remembers for what."""

    def __init__(self, shared: int) -> None:
        self.shared, self.targets = shared, []  # type: ignore[var-annotated]

    def warmup(self, *, grid: tuple[int, ...], **arguments: Any) -> SimpleNamespace:
        if arguments.get("breaks"):
            raise ValueError("at 3:4:\n    tl.dot(a, b)\n         ^\nno such dot")
        self.targets.append(driver.active.get_current_target())
        return SimpleNamespace(hash=f"h{grid[0]}", metadata=SimpleNamespace(shared=self.shared))


def test_names_of_targets() -> None:
    targets = [offline.gpu_target(it) for it in (SM_90, GFX942, GFX1100)]
    assert [(it.backend, it.arch, it.warp_size) for it in targets] == [
        ("cuda", 90, 32),
        ("hip", "gfx942", 64),
        ("hip", "gfx1100", 32),
    ]


def test_launches_are_compiled_for_the_target() -> None:
    function = Jit(shared=1024)
    before = driver._active
    built = offline.compile_launches(
        [Launch(function, (7,), {}), Launch(function, (8,), {})], SM_90
    )
    assert [(it.key, it.shared_bytes) for it in built] == [("h7", 1024), ("h8", 1024)]
    assert function.targets == [offline.gpu_target(SM_90)] * 2
    assert driver._active is before


def test_the_driver_is_put_back_after_an_error() -> None:
    before = driver._active
    with pytest.raises(ValueError, match="no such dot"):
        offline.compile_launches([Launch(Jit(0), (1,), {"breaks": True})], SM_90)
    assert driver._active is before


def test_each_target_has_its_own_device_number() -> None:
    numbers = []
    for target in (SM_90, GFX942, SM_90):
        with offline.offline(target):
            numbers.append(driver.active.get_current_device())
            assert driver.active.get_current_stream(numbers[-1]) == 0
    assert numbers[0] == numbers[2] != numbers[1]


def planned(*launches: Launch) -> Kernel:
    def plan(call: Call, path: str, config: Config) -> list[Launch]:
        assert call.q.device.type == "meta"
        return list(launches)

    return Kernel(**{**vars(fake("planned")), "launches": plan})


@pytest.mark.parametrize(
    ("launches", "built"),
    [
        (
            [Launch(Jit(10), (1,), {}), Launch(Jit(30), (1,), {}), Launch(Jit(20), (1,), {})],
            Built(shared_bytes=30),
        ),
        ([Launch(Jit(10), (1,), {"breaks": True})], Built(reason="ValueError: at 3:4:")),
    ],
)
def test_a_worker_builds_a_task(
    launches: list[Launch], built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "kernel", lambda name: planned(*launches))
    task = Task(kernel="planned", path="fp32", workload=workload(), config={}, target=SM_90)
    assert compile_worker.build(task) == built


def test_a_worker_does_not_know_a_kernel() -> None:
    task = Task(kernel="no", path="fp32", workload=workload(), config={}, target=SM_90)
    assert compile_worker.build(task).reason.startswith("InputError: there is no kernel 'no'")
