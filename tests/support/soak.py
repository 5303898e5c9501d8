"""Calls of every kind, by the thousand, of more shapes than a plan remembers.

Two plans differ in the kernel of prompts. Their calls on plain tensors are mixed with those on
caches and by FlashInfer's wrapper; what they leave behind is measured, and some are checked.
"""

import random
import time
from collections import Counter
from collections.abc import Callable

import bounds
import made_up
import torch
from leaks import Held, grown, held
from soak_caches import Pages, Planes, Wrapped, on_host
from soak_plain import PATHS, SAFE, Plain, Result, Size

from autoprec import registry
from autoprec.flashinfer import precision
from autoprec.kernels.interface import Target
from autoprec.kernels.reference import singles
from autoprec.plan import cached_resolve, execute, run
from autoprec.plan.plan import Plan
from autoprec.types import Config, Environment, Measurement, Phase, Workload

_PLAIN = 0.7  # of the calls are on plain tensors
_ROWS = 32  # of a result that is checked
_GUARD_EVERY = 20

ConfigOf = Callable[[str, str, Workload], Config]


def forgetting() -> dict[str, int]:
    """Containers that forget all they have when they hold so much, by the end of their names."""
    return {
        "._resolved": run._MAX_RESOLVED,
        "._resolved[].bound": execute._MAX_BOUND,
        "._resolved[].bound_safe": execute._MAX_BOUND,
        "._decided": cached_resolve._MAX_DECIDED,
        "._decisions": precision._MAX_DECISIONS,
        "._bound": execute._MAX_BOUND,
    }


def plans_of(
    prompts: tuple[str, str], dim: int, config: ConfigOf, environment: Environment, device: str
) -> tuple[Plan, Plan]:
    """Two plans that choose PATHS and SAFE.

    Args:
        prompts: Their kernels of prompts; that of decode is triton-decode.
        dim: The head dim.
        config: Kernel, path and workload → the configuration.
        environment: Of the device.
        device: Where they are for.
    """

    def rows(prompt: str) -> list[Measurement]:
        found = []
        for phase, kernel in ((Phase.PREFILL, prompt), (Phase.DECODE, "triton-decode")):
            for dtype in PATHS:
                workload = made_up.workload(
                    phase=phase, kv_len=1024, head_dim=dim, input_dtype=dtype
                )
                safe = [SAFE[dtype]] if dtype in SAFE else []
                for ms, path in enumerate((PATHS[dtype], *safe), 1):
                    # what is fallen to is another kernel where the chosen one does not run it
                    name = kernel if path in registry.kernel(kernel).paths else "triton-prefill"
                    found.append(made_up.measurement(
                        path, float(ms), 4e-7, workload=workload, kernel=name,
                        config=dict(config(name, path, workload)),
                    ))  # fmt: skip
        return found

    first, second = (
        Plan(made_up.profile(rows(prompt), environment=environment), torch.device(device))
        for prompt in prompts
    )
    return first, second


def first_config(target: Target) -> ConfigOf:
    """The configuration that fits everywhere."""
    return lambda name, path, workload: registry.kernel(name).configs(path, workload, target)[0]


class Soak:
    """What is called, how often it was, and what it holds."""

    def __init__(self, plans: tuple[Plan, Plan], prompts: tuple[str, str], size: Size) -> None:
        """Make the tensors, caches and pages that calls are of."""
        self.draw = random.Random(0)
        self.plain = Plain(plans, prompts, size, self.draw)
        self.caches = (
            Planes(self.plain), Pages(self.plain), Wrapped(self.plain, self.draw),
        )  # fmt: skip
        self.calls = self.checks = 0
        self.seconds: dict[str, float] = {}
        """What steps of a kind took the host, or what checks did."""
        self.steps: Counter[str] = Counter()
        for plan in plans:
            plan.guard_every = 1  # what checks need is made when the first is
        for part in (self.plain, *self.caches):
            part.warm()
        for plan in plans:
            plan.guard_every = _GUARD_EVERY
        self.paths = [Counter(plan.stats()["calls"]) for plan in plans]

    def run(self, calls: int, every: int) -> None:
        """Call, and check the result of one in every so many steps.

        Raises:
            AssertionError: It is wrong, or calls were not by the paths that were chosen.
        """
        last, steps = self.calls + calls, 0
        while self.calls < last:
            steps += 1
            part = self.plain if self.draw.random() < _PLAIN else self.draw.choice(self.caches)
            started = time.perf_counter()
            result = part.step()
            self._took(result.kind, started)
            self.calls += result.calls
            self.paths[result.plan][result.path] += 1
            if steps % every == 0:
                started = time.perf_counter()
                self.check(result)
                part.check()
                self._took("check", started)
        for plan, expected in zip(self.plain.plans, self.paths, strict=True):
            assert plan.stats() | {"drift": {}} == {
                "calls": dict(expected), "range": 0, "fell": {}, "drift": {},
            }  # fmt: skip

    def pace(self) -> str:
        """A line for each kind of step, the one that took longest first."""
        kinds = sorted(self.seconds, key=lambda kind: -self.seconds[kind])
        return "\n".join(
            f"{kind:40} {self.seconds[kind]:6.1f} s, {self.steps[kind] / self.seconds[kind]:6.0f}/s"
            for kind in kinds
        )

    def _took(self, kind: str, started: float) -> None:
        self.seconds[kind] = self.seconds.get(kind, 0.0) + time.perf_counter() - started
        self.steps[kind] += 1

    def check(self, result: Result) -> None:
        """Compare some rows of a request with the oracle.

        Raises:
            AssertionError: They differ.
        """
        self.checks += 1
        if result.call.q.is_cuda:
            torch.cuda.synchronize()
        single = self.draw.choice(singles(on_host(result.call)))
        q_len = single.q.shape[2]
        chosen = torch.tensor(sorted(self.draw.sample(range(q_len), min(_ROWS, q_len))))
        want = bounds.expected(
            single, result.path, result.kernel, tensor_cores=result.call.q.is_cuda, rows=chosen
        )  # fmt: skip
        bounds.check(single, want)

    def held(self) -> Held:
        """What is held, once everything that is now and then replaced is of its largest size."""
        for cache in self.caches:
            cache.settle()
        first, second = self.plain.plans
        planes, pages, wrapped = self.caches
        roots = {"first plan": first, "second plan": second, "planes": planes.cache,
                 "pages": pages.cache, "wrapper": wrapped.wrapper}  # fmt: skip
        return held(self.plain.size.device, roots)

    def grown(self, before: Held) -> list[str]:
        """What is held more than before, in sentences."""
        return grown(before, self.held(), forgetting(), len(self.plain.streams))
