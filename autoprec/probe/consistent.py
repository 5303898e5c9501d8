"""What was chosen, once more in consistent mode."""

from autoprec import registry
from autoprec.kernels.interface import Target
from autoprec.probe.contender import Contender
from autoprec.probe.lineup import joined
from autoprec.types import Choice, Conversion, Role, Status


def line_up(choice: Choice, target: Target) -> Contender:
    """A chosen path in consistent mode: by its kernel, or another that runs it where it has none.

    Args:
        choice: Of a precision path.
        target: The device.
    """
    workload, path = choice.workload, choice.path
    running, refused = registry.candidates(workload, target, (path,), consistent=True)
    kernels = [kernel for kernel, _ in running]
    kernel = next((it for it in kernels if it.name == choice.kernel), next(iter(kernels), None))
    if kernel is None:
        reasons = [it for it in joined(refused) if it.path == path]
        return Contender(
            role=Role.CANDIDATE, path=path, name=choice.kernel, workload=workload,
            conversion=Conversion.NONE, consistent=True, status=Status.UNSUPPORTED,
            reason="; ".join(it.reason for it in reasons),
        )  # fmt: skip
    assert kernel.consistent is not None
    converts = kernel.converts(path, workload.input_dtype)
    return Contender(
        role=Role.CANDIDATE, path=path, name=kernel.name, workload=workload, kernel=kernel,
        conversion=Conversion.INCLUDED if converts else Conversion.NONE, consistent=True,
        configs=(kernel.consistent(path, workload, target),),
    )  # fmt: skip
