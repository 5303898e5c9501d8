"""In which form one cache serves all phases of a geometry."""

from collections.abc import Mapping
from dataclasses import dataclass

from autoprec.paths import PATHS
from autoprec.types import Dtype, Phase, Storage


@dataclass(frozen=True)
class Joint:
    """The storage of a cache, and why.

    Attributes:
        storage: The form.
        reason: A sentence that says what each phase would have taken alone.
    """

    storage: Storage
    reason: str


def alone(path: str, input_dtype: Dtype) -> Storage:
    """The smallest form that holds all a path reads of inputs of a type.

    What is rounded once to bf16 may as well be stored so. fp16 parts need a scale, which fp16
    alone has not: two planes have it, and a path of one part reads the high one alone.
    """
    scheme = PATHS.get(path)
    own = Storage(input_dtype.value)
    if scheme is None or input_dtype is not Dtype.FP32:
        return own
    if scheme.operand == "fp16":
        return Storage.PLANES
    return Storage.BF16 if scheme.operand == "bf16" and scheme.parts == 1 else own


def jointly(paths: Mapping[Phase, str], input_dtype: Dtype) -> Joint:
    """The form that serves every phase with the path chosen for it.

    Args:
        paths: The path chosen for each phase.
        input_dtype: Type of the keys and values that come in, in which every path reads them.
    """
    wanted = {phase: alone(path, input_dtype) for phase, path in paths.items()}
    forms = set(wanted.values())
    said = ", ".join(f"{form} for {phase} ({paths[phase]})" for phase, form in wanted.items())
    if len(forms) == 1:
        return Joint(forms.pop(), f"each phase would take it alone: {said}")
    own = Storage(input_dtype.value)
    return Joint(own, f"alone it would be {said}; {own} serves all of them")
