"""The measurement: what was found of one kernel and path on one workload."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from autoprec.errors import InputError
from autoprec.types.kinds import STRICT, Config, Conversion, Role, Status, Storage
from autoprec.types.workload import Workload

CAPTURED = "captured"
"""The input family of a user's own tensors; ``captured/3`` are those of layer 3."""

ERROR_METRICS = ("rel_l2", "row_rel_p999", "row_rel_max", "max_abs")
"""The errors that every ok measurement holds for each input family; lse_abs may be added."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One kernel and path on one workload: its time and error, or the reason why not.

    Attributes:
        path: A name of ``paths.PATHS``, or of a baseline such as ``sdpa-flash``.
        kernel: What ran, such as ``triton-prefill``.
        config: The launch configuration that was fastest.
        storage: The form in which K and V were given: the inputs' own, or that of a cache.
        consistent: Whether it ran in the kernel's consistent mode.
        reason: A sentence where the status is not ok.
        lacked_memory: Whether it is not ok for want of memory, which others may have held just
            then. A profile from before does not say.
        p20_ms: 20th percentile of the time, milliseconds; likewise p50_ms and p80_ms.
        tflops: ``Workload.flops`` over the median time, 1e12 per second.
        gb_s: ``Workload.kv_bytes`` over the median time, 1e9 bytes per second; for a cache in
            another form, the bytes of it that the path reads.
        n: Timed samples.
        workspace_gib: Memory that a run takes beyond its inputs and outputs: planes of K and V and
            their scales (also where they were prepared beforehand), partial results, repeated
            heads. On a GPU the peak of PyTorch's allocator; None on a CPU, where nobody counts.
        errors: For each input family the ERROR_METRICS and, where the kernel gives an LSE,
            lse_abs (natural units), against fp64 attention of the inputs as given: of whole
            outputs, the worst of the draws. The families that the budget holds on.
        n_draws: Independent draws of each of these families behind ``bounds``: pairs of a request
            and a KV head. Those in ``captured`` do not count. None in a profile without bounds.
        confidence: That the 95th percentile of all draws is at most ``bounds``, for the family
            with the fewest draws, ``captured`` ones too.
        captured: The families all of whose captured heads were drawn, and how many heads these
            are: there are no more independent draws of them.
        bounds: For each family the largest error of any draw, each a KV head of its own.
        extremes: For each extreme family the errors as in ``errors``; no budget holds them.
        range: Of a path that holds numbers in fp16, for each family what its inputs were: q_max,
            k_max and v_max, and spread_bits, how far tokens of a tile lie apart.
    """

    __pydantic_config__ = STRICT

    role: Role
    path: str
    kernel: str
    config: Config = field(default_factory=dict)
    storage: Storage
    conversion: Conversion
    consistent: bool = False
    workload: Workload
    status: Status
    reason: str = ""
    lacked_memory: bool = False
    p20_ms: float | None = None
    p50_ms: float | None = None
    p80_ms: float | None = None
    tflops: float | None = None
    gb_s: float | None = None
    n: int = 0
    workspace_gib: float | None = None
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    n_draws: int | None = None
    confidence: float = 0.0
    captured: dict[str, int] = field(default_factory=dict)
    bounds: dict[str, dict[str, float]] = field(default_factory=dict)
    extremes: dict[str, dict[str, float]] = field(default_factory=dict)
    range: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a record that cannot be.

        Raises:
            InputError: An ok measurement has no time or no error, or lacked memory, one that is
                not ok has no reason, or a number is none that a clock or an oracle gives.
        """
        if self.status is Status.OK:
            self._refuse_bad_times()
            if self.lacked_memory:
                raise InputError(f"the ok measurement of {self.path} cannot have lacked memory.")
        elif not self.reason:
            raise InputError(f"the {self.status} measurement of {self.path} gives no reason.")
        if self.workspace_gib is not None and not 0 <= self.workspace_gib < math.inf:
            raise InputError(
                f"workspace_gib of {self.path} must be finite and not below zero, "
                f"got {self.workspace_gib:g}."
            )
        if not 0 <= self.confidence <= 1 or (self.n_draws or 0) < 0:
            raise InputError(
                f"the confidence of {self.path} must be from 0 to 1 and n_draws not below zero, "
                f"got {self.confidence:g} and {self.n_draws}."
            )
        if any(heads < 1 for heads in self.captured.values()):
            raise InputError(f"the captured heads of {self.path} must be above zero.")
        numbered = (*self.errors.items(), *self.bounds.items(), *self.extremes.items())
        for family, numbers in self.range.items():
            if not all(0 <= value < math.inf for value in numbers.values()):
                raise InputError(f"the range of {self.path} on {family} must be finite.")
        for family, numbers in numbered:
            missing = [metric for metric in ERROR_METRICS if metric not in numbers]
            if missing:
                raise InputError(f"the errors of {self.path} on {family} lack {missing[0]}.")
            for metric, value in numbers.items():
                if not 0 <= value < math.inf:
                    raise InputError(
                        f"{metric} of {self.path} on {family} must be finite and not below zero, "
                        f"got {value:g}."
                    )

    def _refuse_bad_times(self) -> None:
        p20, p50, p80 = self.p20_ms, self.p50_ms, self.p80_ms
        if p20 is None or p50 is None or p80 is None or not self.errors:
            raise InputError(f"the ok measurement of {self.path} has no time or no errors.")
        if not 0 < p20 <= p50 <= p80 < math.inf:
            raise InputError(
                f"the times of {self.path} must be above zero and in order, "
                f"got p20 {p20:g}, p50 {p50:g}, p80 {p80:g} ms."
            )

    @property
    def median_ms(self) -> float:
        """p50_ms of an ok row, which has it; 0 of others."""
        return self.p50_ms or 0.0

    @property
    def spread_ms(self) -> tuple[float, float]:
        """p20_ms and p80_ms of an ok row, which has them; 0 of others."""
        return self.p20_ms or 0.0, self.p80_ms or 0.0

    def apart(self, other: "Measurement") -> bool:
        """Whether the ranges of two ok rows from the 20th to the 80th percentile do not meet."""
        (low, high), (its_low, its_high) = self.spread_ms, other.spread_ms
        return low > its_high or its_low > high

    @property
    def prepared(self) -> bool:
        """Whether it leaves the conversion of K and V, given as they are, out of a kernel's time.

        Such a row shows what ``plan.prepare_kv`` gains. It is never chosen: what is chosen has
        the conversion in its time. A baseline that repeats heads beforehand is none of these.
        """
        amortised = self.role is Role.CANDIDATE and self.conversion is Conversion.AMORTISED
        return amortised and not self.cached

    @property
    def cached(self) -> bool:
        """Whether K and V lie in a cache in another form than the inputs'.

        They were brought into it as they were appended, which is not in the time.
        """
        own = self.storage.value == self.workload.input_dtype.value
        return self.role is Role.CANDIDATE and not own

    @property
    def variant(self) -> str:
        """What sets it apart from its path as it is chosen: ``prepared``, ``fp16x2 cache``, ..."""
        if self.consistent:
            return "consistent"
        if self.cached:
            return f"{self.storage} cache"
        return "prepared" if self.prepared else ""

    @property
    def aside(self) -> bool:
        """Whether it shows what a variant of a path takes, and takes part in no contest."""
        return bool(self.variant)

    @property
    def key(self) -> tuple[Workload, Role, str, str, Storage, Conversion, bool]:
        """What a later measurement must equal to replace this one."""
        return (
            self.workload, self.role, self.path, self.kernel, self.storage, self.conversion,
            self.consistent,
        )  # fmt: skip


def by_workload(rows: Iterable[Measurement]) -> dict[Workload, list[Measurement]]:
    """The rows of each workload, both in the order in which they come."""
    found: dict[Workload, list[Measurement]] = {}
    for row in rows:
        found.setdefault(row.workload, []).append(row)
    return found
