"""Workloads from the lists of sizes that a person types, and back into a command."""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TypeVar

from autoprec.errors import InputError
from autoprec.types import MAX_DECODE_Q_LEN, Dtype, Mask, Phase, Workload

Member = TypeVar("Member", bound=StrEnum)
Read = TypeVar("Read")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is to be combined into workloads; an empty list means the device's default.

    Attributes:
        q_len: New tokens for append and decode; a prefill's are its kv_len.
        heads: Such as ``32/8``, query over KV heads; ``12`` means 12/12.
        head_dim: Such as ``128``, or ``192/128`` where values have another size.
        out_dtype: A type, or ``same`` for the input's.
        context: No default kv_len is longer than this.
    """

    phase: Sequence[str] = ()
    batch: Sequence[str | int] = ()
    q_len: Sequence[str | int] = ()
    kv_len: Sequence[str | int] = ()
    heads: Sequence[str | int] = ()
    head_dim: Sequence[str | int] = ()
    mask: Sequence[str] = ()
    input_dtype: Sequence[str] = ()
    out_dtype: Sequence[str] = ()
    context: int | None = None


@dataclass(frozen=True, kw_only=True)
class _Defaults:
    batch: dict[Phase, tuple[int, ...]]
    kv_len: dict[Phase, tuple[int, ...]]
    append_q_len: int
    input_dtype: tuple[Dtype, ...]


_GPU = _Defaults(
    batch={Phase.PREFILL: (1,), Phase.APPEND: (1,), Phase.DECODE: (1, 16, 64)},
    kv_len=dict.fromkeys(Phase, (1024, 8192)),
    append_q_len=512,
    input_dtype=(Dtype.FP32, Dtype.BF16),
)
_CPU = _Defaults(
    batch={Phase.PREFILL: (1,), Phase.APPEND: (1,), Phase.DECODE: (1, 4)},
    kv_len={Phase.PREFILL: (256, 1024), Phase.APPEND: (256, 1024), Phase.DECODE: (1024, 4096)},
    append_q_len=64,
    input_dtype=(Dtype.FP32,),
)


def expand(sizes: Sizes, *, kind: str) -> list[Workload]:
    """Every combination of the sizes, ordered so that a bit of everything comes first.

    Args:
        sizes: As typed; what is left empty takes the defaults of the device's kind.
        kind: ``cuda``, ``hip`` or ``cpu``.

    Raises:
        InputError: A value is none of its option, or no phase asked for can have a q_len.
    """
    defaults = _CPU if kind == "cpu" else _GPU
    phases = _phases(sizes)
    by_kind = [
        list(_combine(phase, dtype, sizes, defaults))
        for phase in phases
        for dtype in _read("--input-dtype", sizes.input_dtype, _one_of(Dtype))
        or defaults.input_dtype
    ]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*by_kind))
    return list(dict.fromkeys(workload for workload in turns if workload is not None))


def _combine(
    phase: Phase, input_dtype: Dtype, sizes: Sizes, defaults: _Defaults
) -> Iterator[Workload]:
    """The workloads of one phase and input type."""
    longest = sizes.context or max(defaults.kv_len[phase])
    combinations = itertools.product(
        _read("--heads", sizes.heads, _pair) or [(32, 8)],
        _read("--head-dim", sizes.head_dim, _pair) or [(128, 128)],
        _read("--mask", sizes.mask, _one_of(Mask)) or [Mask.CAUSAL],
        _read("--out-dtype", sizes.out_dtype, _out_dtype) or [None],
        _read("--kv-len", sizes.kv_len, _size)
        or [min(default, longest) for default in defaults.kv_len[phase]],
        _read("--batch", sizes.batch, _size) or defaults.batch[phase],
        _q_lens(phase, sizes, defaults),
    )
    for (q_heads, kv_heads), (dim, dim_v), mask, out_dtype, kv_len, batch, q_len in combinations:
        yield Workload(
            phase=phase,
            batch=batch,
            q_len=kv_len if q_len is None else q_len,
            kv_len=kv_len,
            q_heads=q_heads,
            kv_heads=kv_heads,
            head_dim=dim,
            head_dim_v=dim_v,
            mask=mask,
            input_dtype=input_dtype,
            out_dtype=out_dtype or input_dtype,
        )


def _phases(sizes: Sizes) -> list[Phase]:
    """The phases asked for; where only q_len was given, those that have such a q_len."""
    q_lens = _read("--q-len", sizes.q_len, _size)
    asked = _read("--phase", sizes.phase, _one_of(Phase))
    if not asked and not q_lens:
        return [Phase.PREFILL, Phase.DECODE]
    phases = asked or list(
        dict.fromkeys(Phase.DECODE if n <= MAX_DECODE_Q_LEN else Phase.APPEND for n in q_lens)
    )
    for q_len in q_lens:
        if not any(_takes(phase, q_len) for phase in phases):
            raise InputError(
                f"--q-len {q_len} fits no phase asked for ({', '.join(phases)}).",
                f"decode for 1 to {MAX_DECODE_Q_LEN} new tokens, append for 2 or more; "
                "a prefill's q_len is its kv_len",
            )
    return phases


def _takes(phase: Phase, q_len: int) -> bool:
    if phase is Phase.DECODE:
        return q_len <= MAX_DECODE_Q_LEN
    return phase is Phase.APPEND and q_len > 1


def _q_lens(phase: Phase, sizes: Sizes, defaults: _Defaults) -> Sequence[int | None]:
    """The new tokens of a phase; None for as many as there are keys."""
    if phase is Phase.PREFILL:
        return [None]
    given = [n for n in _read("--q-len", sizes.q_len, _size) if _takes(phase, n)]
    return given or [defaults.append_q_len if phase is Phase.APPEND else 1]


def _read(option: str, values: Iterable[str | int], reader: Callable[[str], Read]) -> list[Read]:
    """The values of one option, each a list with commas.

    Raises:
        InputError: The reader refuses one, with a ValueError that says what it must be.
    """
    found: list[Read] = []
    for token in itertools.chain.from_iterable(str(value).split(",") for value in values):
        try:
            found.append(reader(token.strip()))
        except ValueError as error:
            raise InputError(f"{option} {error}, got {token.strip()!r}.") from None
    return found


def _size(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text)):
        raise ValueError("must be a whole number from 1 to 999999999")
    return int(text)


def _pair(text: str) -> tuple[int, int]:
    first, _, second = text.partition("/")
    return _size(first), _size(second if "/" in text else first)


def _one_of(members: type[Member]) -> Callable[[str], Member]:
    def reader(text: str) -> Member:
        if text not in list(members):
            raise ValueError(f"must be one of {', '.join(members)}")
        return members(text)

    return reader


def _out_dtype(text: str) -> Dtype | None:
    if text == "same":
        return None
    if text not in list(Dtype):
        raise ValueError(f"must be one of same, {', '.join(Dtype)}")
    return Dtype(text)


def tune_command(workload: Workload) -> str:
    """The command that measures one workload again.

    A window or a soft cap can only be given in a file, so such a workload is written out for one.
    """
    if workload.window is not None or workload.soft_cap is not None:
        entry = json.dumps([asdict(workload)])
        return f"echo '{entry}' > workloads.json && autoprec tune --workloads workloads.json"
    dim = str(workload.head_dim)
    if workload.head_dim_v != workload.head_dim:
        dim += f"/{workload.head_dim_v}"
    q_len = "" if workload.phase is Phase.PREFILL else f" --q-len {workload.q_len}"
    return (
        f"autoprec tune --phase {workload.phase} --batch {workload.batch}{q_len} "
        f"--kv-len {workload.kv_len} --heads {workload.q_heads}/{workload.kv_heads} "
        f"--head-dim {dim} --mask {workload.mask} "
        f"--input-dtype {workload.input_dtype} --out-dtype {workload.out_dtype}"
    )
