"""Keys and values converted once, for many calls."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from torch import Tensor

from autoprec.errors import InputError, UnsupportedError
from autoprec.kernels.interface import Prepared, Target
from autoprec.plan.decision import Decision
from autoprec.plan.request import Request
from autoprec.types import Config, Phase, Workload


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PreparedKV:
    """Keys and values as the path that a plan chose for them reads them: ``Plan.prepare_kv``.

    Where that path multiplies parts of them, these planes are all that is kept: the tensors they
    were made of can be freed, and what is written to those later is not seen. Where it reads the
    tensors as they are, it is they that are held, and later writes are seen.

    Attributes:
        path: The precision path.
        kernel: The kernel whose planes they are.
        config: Its launch configuration.
        kv_len: Keys of each request.
        nbytes: Bytes that the planes take; 0 where the tensors are held as they are.
    """

    path: str
    kernel: str
    config: Config
    kv_len: int
    nbytes: int
    _k: Tensor = field()
    _v: Tensor = field()
    _planes: Prepared | None
    _decision: Decision
    _in_words: Callable[[], str]

    def explain(self) -> str:
        """What was chosen for these keys and values, and why, as text."""
        held = f"{self.nbytes} bytes of planes" if self._planes else "the tensors as they are"
        return f"{self._in_words()}\nprepared: {held}"

    def __repr__(self) -> str:
        """One line: the path, the kernel, and what is held."""
        config = " ".join(f"{name}={value}" for name, value in self.config.items())
        kernel = f"{self.kernel} {config}".rstrip()
        return f"PreparedKV({self.path} by {kernel}: {self.kv_len} keys, {self.nbytes} bytes)"

    @property
    def planes(self) -> Prepared | None:
        """What the kernel takes in place of keys and values; None: it takes these."""
        return self._planes

    @property
    def key(self) -> object:
        """What calls on equal shapes must share to run alike; None where all do."""
        if self._planes is None:
            return None
        return self.path, self.kernel, tuple(self.config.items())

    def tensors(self, layout: str, v: object) -> tuple[Tensor, Tensor]:
        """Keys and values in the layout of a call; of planes, only shape, type and device are true.

        Args:
            v: What the call was given for v.

        Raises:
            InputError: The call was given values of its own.
        """
        if v is not None:
            raise InputError(
                "v is given, but the PreparedKV in place of k has its own values.",
                "leave v out",
            )
        if layout == "bshd":
            return self._k.transpose(1, 2), self._v.transpose(1, 2)
        return self._k, self._v

    def decide(self, workload: Workload, target: Target) -> Decision:
        """The kernel, path and configuration that the planes were made for, on another workload.

        Raises:
            UnsupportedError: That kernel does not run it.
        """
        refusals = self._decision.kernel.refusals(self.path, workload, target)
        if refusals:
            decodes = workload.phase is Phase.DECODE
            raise UnsupportedError(
                f"keys and values were prepared for {self.kernel}, which cannot run this: "
                f"{'; '.join(refusals)}.",
                "plan.decode(q, k, v) on the tensors, or plan.append for 2 queries or more"
                if decodes
                else "the tensors that they were prepared from",
            )
        return self._decision.on(workload)


def given_kv(
    request: Request, kv: Tensor | PreparedKV, v: Tensor | None
) -> tuple[Tensor, Tensor, PreparedKV | None]:
    """Keys and values, and what they were prepared as; what they are is checked elsewhere."""
    if isinstance(kv, PreparedKV):
        return *kv.tensors(request.layout, v), kv
    return kv, cast(Tensor, v), None


def unguarded(held: PreparedKV) -> InputError:
    """That planes of a narrow range cannot be guarded."""
    return InputError(
        f"keys and values were prepared for {held.path} while plan.guard was not always, and its "
        "range can no longer be guarded.",
        "plan.prepare_kv again, which now takes a path with fp32's range",
    )
