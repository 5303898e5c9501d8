"""The nouns of autoprec, as frozen records that need the standard library alone.

The profile's JSON is these records and nothing else, so field names are the file's keys.
"""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from autoprec.errors import InputError

SCHEMA_VERSION = 1

MAX_DECODE_Q_LEN = 16
"""Up to this many new tokens on a longer cache count as decode (speculative decoding)."""

MAX_SIZE = 999_999_999
"""No size of a workload is larger: products of a few stay finite, and lines short."""

_LEAST_RATE = 1e-12  # shares of a ceiling stay finite

# Extra keys in a file are mistakes, and numbers in a record are finite; pydantic reads this
# attribute off a standard dataclass, so that nothing here needs pydantic.
_STRICT: dict[str, Any] = {"extra": "forbid", "allow_inf_nan": False}

Config = dict[str, int | str]
"""A kernel's launch configuration, such as ``{"block_q": 128, "num_warps": 8}``."""

DEFAULT_CONFIDENCE = 0.95
"""How sure a bound is to be, unless asked otherwise."""

CAPTURED = "captured"
"""The input family of a user's own tensors; ``captured/3`` are those of layer 3."""

ERROR_METRICS = ("rel_l2", "row_rel_p999", "row_rel_max", "max_abs")
"""The errors that every ok measurement holds for each input family; lse_abs may be added."""


class Phase(StrEnum):
    """What attention is called for."""

    PREFILL = "prefill"  # q_len = kv_len
    APPEND = "append"  # 1 < q_len < kv_len
    DECODE = "decode"  # q_len = 1, or the few tokens of speculative decoding


class Dtype(StrEnum):
    """Element types of inputs and outputs."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"

    @property
    def nbytes(self) -> int:
        """Bytes an element takes."""
        return 4 if self is Dtype.FP32 else 2


class Mask(StrEnum):
    """Which keys a query sees."""

    CAUSAL = "causal"  # aligned bottom-right: the last query sees every key
    FULL = "full"


class Layout(StrEnum):
    """How the keys and values of several requests lie in memory."""

    CONTIGUOUS = "contiguous"  # each request in a row of its own
    RAGGED = "ragged"  # one after another, with no room between
    PAGED = "paged"  # in pages of a fixed number of tokens, anywhere


class Storage(StrEnum):
    """The form in which K and V lie in memory."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    PLANES = "fp16x2"  # two fp16 planes, high and low, and a power of two for each token of a head

    @property
    def nbytes(self) -> int:
        """Bytes an element takes, the powers of two aside."""
        return 4 if self in (Storage.FP32, Storage.PLANES) else 2


class Conversion(StrEnum):
    """Where the time to bring the operands into the path's form is counted."""

    INCLUDED = "included"  # inside the measured time
    AMORTISED = "amortised"  # done once, outside the measured time
    NONE = "none"  # the inputs already have that form


class Role(StrEnum):
    """Whether a measurement is ours to choose, or what users would call instead."""

    CANDIDATE = "candidate"
    BASELINE = "baseline"


class Status(StrEnum):
    """How a measurement ended."""

    OK = "ok"
    UNSUPPORTED = "unsupported"  # it cannot run here; the reason says why
    FAILED = "failed"  # it ran, or was compiled, and something broke
    SKIPPED = "skipped"  # there was no time for it


_SIZES = (
    "batch", "q_len", "kv_len", "q_heads", "kv_heads", "head_dim", "head_dim_v", "window",
    "page_size",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One attention problem: the key under which measurements and choices are kept.

    Attributes:
        batch: Number of requests.
        q_len: New tokens of each request.
        kv_len: Keys of each request, the new tokens included.
        q_heads: Query heads; a multiple of kv_heads.
        head_dim: Elements of a query or key vector.
        head_dim_v: Elements of a value vector.
        window: Keys a query sees at most, itself included; None for all of them.
        soft_cap: The tanh cap on logits; None for none.
        layout: How K and V lie; requests of ragged and paged ones may be shorter than kv_len.
        page_size: Tokens of a page; None where there are no pages.
        sinks: Whether each head has a logit of its own beside its keys.
        custom_mask: Whether the caller says of every query and key whether it is seen; ``mask`` is
            then full. Such workloads are looked up and never measured.
        input_dtype: Type of q, k and v.
        out_dtype: Type of the output.
    """

    __pydantic_config__ = _STRICT

    phase: Phase
    batch: int
    q_len: int
    kv_len: int
    q_heads: int
    kv_heads: int
    head_dim: int
    head_dim_v: int
    mask: Mask
    window: int | None = None
    soft_cap: float | None = None
    layout: Layout = Layout.CONTIGUOUS
    page_size: int | None = None
    sinks: bool = False
    custom_mask: bool = False
    input_dtype: Dtype
    out_dtype: Dtype

    def __post_init__(self) -> None:
        """Refuse sizes that are no attention problem.

        Raises:
            InputError: A size is no whole number from 1 to MAX_SIZE, the heads do not divide, the
                phase does not fit the lengths, or the page size the layout.
        """
        for name in _SIZES:
            size = getattr(self, name)
            if name in ("window", "page_size") and size is None:
                continue
            if not isinstance(size, int):
                raise InputError(f"{name} must be a whole number, got {size!r}.")
            if not 1 <= size <= MAX_SIZE:
                bound = "at least 1" if size < 1 else f"at most {MAX_SIZE}"
                got = f"{size}" if size.bit_length() < 64 else f"{size.bit_length()} bits"
                raise InputError(f"{name} must be {bound}, got {got}.")
        if self.soft_cap is not None and not 0 < self.soft_cap < math.inf:
            raise InputError(f"soft_cap must be above zero and finite, got {self.soft_cap:g}.")
        if self.q_heads % self.kv_heads:
            raise InputError(
                f"q_heads must be a multiple of kv_heads, got {self.q_heads}/{self.kv_heads}.",
                "give heads as QUERY/KV, such as 32/8",
            )
        if (self.page_size is None) == (self.layout is Layout.PAGED):
            raise InputError(f"page_size is for the layout paged, and {self.layout} is given "
                             f"page_size {self.page_size}.")  # fmt: skip
        if self.phase is Phase.APPEND and not 1 < self.q_len < self.kv_len:
            raise InputError(
                f"append needs 1 < q_len < kv_len, got q_len {self.q_len}, kv_len {self.kv_len}."
            )
        if self.phase is Phase.PREFILL and self.q_len != self.kv_len:
            raise InputError(
                f"prefill needs q_len = kv_len, got q_len {self.q_len}, kv_len {self.kv_len}."
            )

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.q_heads // self.kv_heads

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key that the mask lets through, for one head of one request."""
        rows = self.q_len
        first = last = self.kv_len  # keys that the first and the last row sees
        if self.mask is Mask.CAUSAL:
            rows = min(self.q_len, self.kv_len)  # those that see a key at all
            first = self.kv_len - rows + 1
        most = min(self.window or last, last)
        growing = max(0, most - first)  # rows that see fewer than the most; one more key each
        return growing * (first + most - 1) // 2 + (rows - growing) * most

    @property
    def flops(self) -> float:
        """Multiplications and additions of QKᵀ and PV, once each."""
        return 2.0 * self.batch * self.q_heads * self.pairs * (self.head_dim + self.head_dim_v)

    @property
    def kv_bytes(self) -> int:
        """Bytes of K and V as they are given, each read once."""
        elements = self.batch * self.kv_heads * self.kv_len * (self.head_dim + self.head_dim_v)
        return elements * self.input_dtype.nbytes

    def token_bytes(self, storage: Storage) -> int:
        """Bytes that a token of a request takes in a cache, over all heads."""
        factors = 8 if storage is Storage.PLANES else 0  # a power of two in fp32 for K, one for V
        return self.kv_heads * ((self.head_dim + self.head_dim_v) * storage.nbytes + factors)

    def __str__(self) -> str:
        """One line for tables and messages, such as ``decode b8 q1 kv4096 32/8 d128 fp32``."""
        dims = f"d{self.head_dim}" + (
            f"/{self.head_dim_v}" if self.head_dim_v != self.head_dim else ""
        )
        dtype = self.input_dtype.value
        if self.out_dtype != self.input_dtype:
            dtype += f">{self.out_dtype.value}"
        window = f" w{self.window}" if self.window is not None else ""
        cap = f" cap{self.soft_cap:g}" if self.soft_cap is not None else ""
        sinks = (" sinks" if self.sinks else "") + (" custom mask" if self.custom_mask else "")
        layout = {
            Layout.CONTIGUOUS: "", Layout.RAGGED: " ragged", Layout.PAGED: f" page{self.page_size}",
        }[self.layout]  # fmt: skip
        return (
            f"{self.phase.value} b{self.batch} q{self.q_len} kv{self.kv_len} "
            f"{self.q_heads}/{self.kv_heads} {dims} {self.mask.value}{window}{cap}{sinks}{layout} "
            f"{dtype}"
        )


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

    __pydantic_config__ = _STRICT

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


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a workload should use, and why each other path was not taken.

    Attributes:
        path: A precision path, or a baseline where those were allowed.
        margin: The budget's bound over the error, for the clause that is nearest to it: 2 means
            that the error is half of what was allowed.
        rejected: A sentence for every other path and baseline measured.
    """

    __pydantic_config__ = _STRICT

    workload: Workload
    path: str
    kernel: str
    config: Config
    storage: Storage
    margin: float
    rejected: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A workload for which no path keeps to the budget, with a sentence for every path.

    Attributes:
        ran: Whether any path ran that might have been taken: where none did, no budget helps. A
            profile from before does not say.
    """

    __pydantic_config__ = _STRICT

    workload: Workload
    rejected: dict[str, str]
    ran: bool = True


@dataclass(frozen=True, kw_only=True)
class Device:
    """The device that runs attention.

    Attributes:
        kind: ``cuda``, ``hip`` or ``cpu``.
        name: As the driver or the operating system gives it.
        capability: ``9.0`` for a CUDA device, ``gfx942`` for an AMD one, the machine's
            architecture (``x86_64``) for a CPU.
        memory_gib: Device memory; for a CPU, the machine's.
        units: Streaming multiprocessors, compute units, or the cores this process may use.
    """

    __pydantic_config__ = _STRICT

    kind: str
    name: str
    capability: str
    memory_gib: float
    units: int


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Everything a measured time or error depends on beside the workload.

    Attributes:
        kernels: A digest of the kernels' sources.
        variables: Environment variables set that change results or times.
    """

    __pydantic_config__ = _STRICT

    device: Device
    python: str
    torch: str
    triton: str | None
    driver: str | None
    cuda: str | None
    kernels: str
    variables: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What the machine can do at most, measured.

    Attributes:
        copy_gb_s: Device copy, bytes read plus bytes written, 1e9 per second.
        gemm_tflops: A large matrix product by operand type (fp32, tf32, bf16, fp16).
    """

    __pydantic_config__ = _STRICT

    copy_gb_s: float
    gemm_tflops: dict[str, float]

    def __post_init__(self) -> None:
        """Refuse what cannot be a ceiling, since shares are of it.

        Raises:
            InputError: A rate is not above zero and finite, or nearly zero.
        """
        for name, rate in {"copy_gb_s": self.copy_gb_s, **self.gemm_tflops}.items():
            if not 0 < rate < math.inf:
                raise InputError(f"the ceiling {name} must be above zero and finite, got {rate:g}.")
            if rate < _LEAST_RATE:
                raise InputError(
                    f"the ceiling {name} must be at least {_LEAST_RATE:g}, got {rate:g}."
                )


@dataclass(frozen=True, kw_only=True)
class DotMode:
    """What one way of forming matrix products was seen to do on a device.

    Attributes:
        mode: The operand type, as in ``paths.Path.operand``, or another way of multiplying.
        rows: Of a tile: chips have other instructions for high tiles.
        operand_bits: Significant bits of an operand that count.
        operand_rounding: How an operand of more bits loses them: ``exact`` where it has none to
            lose, ``nearest``, ``toward zero``, ``up``, ``down`` or ``unevenly``.
        products_exact: Whether the product of two operands enters the sum unrounded; of two fp32
            operands, rounded to nearest.
        accumulator_bits: Significant bits that a sum keeps.
        accumulator_rounding: How it loses the others, in the same words.
        guard_bits: Bits below the last one kept that terms of one instruction have while they are
            added; 3 stands for 3 or more.
        subnormal_operands: Whether the least subnormal operand counts, and is not taken as zero.
        subnormal_sums: Whether a sum below 2^-126 is kept.
    """

    __pydantic_config__ = _STRICT

    mode: str
    rows: int
    operand_bits: int
    operand_rounding: str
    products_exact: bool
    accumulator_bits: int
    accumulator_rounding: str
    guard_bits: int
    subnormal_operands: bool
    subnormal_sums: bool


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What ``autoprec tune`` saves.

    Attributes:
        created_at: UTC time of the last change, ISO 8601.
        recorded_by: The command that made it.
        fingerprint: What the device's matrix products were seen to do; [] where nobody looked.
        budget: The budget, in the grammar of ``grammar.py``.
        confidence: Asked of the bounds on which choices rest.
        allow_baselines: Whether a baseline may be chosen.
        remarks: Sentences on what happened while measuring: throttling, other processes, what
            there was no time for.
    """

    __pydantic_config__ = _STRICT

    schema_version: int = SCHEMA_VERSION
    created_at: str
    autoprec_version: str
    recorded_by: str = ""
    environment: Environment
    ceilings: Ceilings
    fingerprint: list[DotMode] = field(default_factory=list)
    budget: str
    confidence: float = DEFAULT_CONFIDENCE
    allow_baselines: bool = False
    measurements: list[Measurement]
    choices: list[Choice]
    refusals: list[Refusal] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
