"""What runs in CUDA graphs of lengths to come: memory and grids follow what was given room for."""

from dataclasses import replace

from autoprec import registry
from autoprec.kernels.interface import Target
from autoprec.plan.decision import Decision


def steadied(decision: Decision, target: Target) -> Decision:
    """A decision for lengths of which nothing is known but the places for page numbers there are.

    A kernel that brings K and V together from their pages first gives way to one that reads them
    where they lie: each graph would own planes for all of these places, and launch as much.
    """
    if decision.kernel.gathers(decision.path, decision.workload):
        decision = _in_place(decision, target)
    kernel = decision.kernel
    if kernel.steady is None:
        return decision
    return replace(decision, config=kernel.steady(decision.config, decision.workload, target))


def _in_place(decision: Decision, target: Target) -> Decision:
    """The same path by a kernel that reads pages where they lie; as it is where there is none."""
    workload, path, was = decision.workload, decision.path, decision.kernel.name
    running, _ = registry.candidates(workload, target, (path,))
    for kernel, _ in running:
        if kernel.gathers(path, workload):
            continue
        substituted = (
            f"{was} was chosen but brings keys and values together from all pages that a graph "
            f"has room for, so {kernel.name} runs the same path"
        )
        first = f"{kernel.name} was not measured here, so its first configuration is used"
        return replace(
            decision, kernel=kernel, config=dict(kernel.configs(path, workload, target)[0]),
            notes=(substituted, first), substituted=substituted,
        )  # fmt: skip
    return decision
