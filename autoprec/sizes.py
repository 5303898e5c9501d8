"""Sizes as a person types them: lists of values, each value a list with commas."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from autoprec.errors import InputError
from autoprec.types import Dtype, Mask, Phase

Member = TypeVar("Member", bound=StrEnum)
Value = TypeVar("Value")

_EXAMPLES = {
    "--phase": "prefill,decode",
    "--batch": "1,8",
    "--q-len": "1,4",
    "--kv-len": "1024,8192",
    "--heads": "32/8",
    "--head-dim": "128",
    "--mask": "causal",
    "--input-dtype": "fp32,bf16",
    "--out-dtype": "same",
}

_TWO = re.compile(r"\s*([1-9][0-9]{0,8})\s*,\s*([1-9][0-9]{0,8})\s*")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is to be combined into workloads; None means the device's default.

    Attributes:
        q_len: New tokens for append and decode; a prefill's are its kv_len.
        heads: Such as ``32/8``, query over KV heads; ``12`` means 12/12.
        head_dim: Such as ``128``, or ``192/128`` where values have another size.
        out_dtype: A type, or ``same`` for the input's.
        context: No default kv_len is longer than this.
    """

    phase: Sequence[str] | None = None
    batch: Sequence[str | int] | None = None
    q_len: Sequence[str | int] | None = None
    kv_len: Sequence[str | int] | None = None
    heads: Sequence[str | int] | None = None
    head_dim: Sequence[str | int] | None = None
    mask: Sequence[str] | None = None
    input_dtype: Sequence[str] | None = None
    out_dtype: Sequence[str] | None = None
    context: int | None = None


@dataclass(frozen=True, kw_only=True)
class Values:
    """Sizes, read; an empty list means that nothing was given. None is ``same``."""

    phase: list[Phase]
    batch: list[int]
    q_len: list[int]
    kv_len: list[int]
    heads: list[tuple[int, int]]
    head_dim: list[tuple[int, int]]
    mask: list[Mask]
    input_dtype: list[Dtype]
    out_dtype: list[Dtype | None]


def read(sizes: Sizes) -> Values:
    """What the sizes say.

    Raises:
        InputError: A value is none of its option, or may be meant as another one.
    """
    _refuse_comma_for_slash(sizes.heads)
    return Values(
        phase=_read("--phase", sizes.phase, _one_of(Phase)),
        batch=_read("--batch", sizes.batch, _size),
        q_len=_read("--q-len", sizes.q_len, _size),
        kv_len=_read("--kv-len", sizes.kv_len, _size),
        heads=_read("--heads", sizes.heads, _pair),
        head_dim=_read("--head-dim", sizes.head_dim, _pair),
        mask=_read("--mask", sizes.mask, _one_of(Mask)),
        input_dtype=_read("--input-dtype", sizes.input_dtype, _one_of(Dtype)),
        out_dtype=_read("--out-dtype", sizes.out_dtype, _out_dtype),
    )


def _refuse_comma_for_slash(heads: Iterable[str | int] | None) -> None:
    """Refuse ``32,8``: rarely are 32/32 and 8/8 meant.

    Raises:
        InputError: A list has two numbers that could be query and KV heads.
    """
    for given in map(str, heads or ()):
        if found := _TWO.fullmatch(given):
            q, kv = map(int, found.groups())
            if q > kv and q % kv == 0:
                raise InputError(
                    f"--heads {q},{kv} would be two, {q}/{q} and {kv}/{kv}; query and KV heads "
                    "have a slash between them.",
                    f"--heads {q}/{kv}, or --heads {q}/{q},{kv}/{kv} where two are meant",
                )


def _read(
    option: str, values: Iterable[str | int] | None, reader: Callable[[str], Value]
) -> list[Value]:
    """The values of one option, each a list with commas; each once.

    Raises:
        InputError: The reader refuses one, with a ValueError that says what it must be.
    """
    found: dict[Value, None] = {}
    for token in ",".join(map(str, values)).split(",") if values else ():
        try:
            found[reader(token.strip())] = None
        except ValueError as error:
            raise InputError(
                f"{option} {error}, got {token.strip()!r}.", f"{option} {_EXAMPLES[option]}"
            ) from None
    return list(found)


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
