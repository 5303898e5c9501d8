"""Repairs of Triton's CPU interpreter (3.6 and 3.7), so that it computes what the chips compute.

As it comes, the interpreter holds bf16 numbers as their bits and adds, multiplies and reduces
those bits; truncates where fp32 becomes bf16; multiplies tf32 operands unrounded; knows no bf16x3
and bf16x6; lets a NaN through ``tl.maximum``; and, in 3.6, fails with NumPy 2.4 and later.
"""

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import triton.language as tl
from interpreter_speed import hasten
from triton.runtime import interpreter

Array = npt.NDArray[Any]


def to_bf16(x: Array) -> Array:
    """The bits of x rounded to nearest even bf16; NaN becomes the quiet NaN."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), rounded)


def from_bf16(bits: Array) -> Array:
    """The fp32 numbers that bf16 bits stand for."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def truncated_tf32(x: Array) -> Array:
    """What tensor cores take of an fp32 operand: its upper 19 bits."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32) & np.uint32(0xFFFFE000)
    return np.where(np.isnan(x), x, bits.view(np.float32))


def rounded_tf32(x: Array) -> Array:
    """x rounded to nearest tf32, ties away from zero, as cvt.rna does it."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32) + np.uint32(0x1000)
    return np.where(np.isnan(x), x, (bits & np.uint32(0xFFFFE000)).view(np.float32))


def _parts(x: Array, rounding: Callable[[Array], Array], count: int) -> list[Array]:
    parts = []
    for _ in range(count):
        parts.append(rounding(x))
        x = x - parts[-1]
    return parts


def fp32_dot(a: Array, b: Array, precision: str) -> Array:
    """a @ b of fp32 operands by one of ``tl.dot``'s input precisions, in lower case."""
    if precision == "ieee":
        return np.matmul(a, b)
    if precision == "tf32":
        return np.matmul(truncated_tf32(a), truncated_tf32(b))
    if precision == "tf32x3":
        (a0, a1), (b0, b1) = _parts(a, rounded_tf32, 2), _parts(b, rounded_tf32, 2)
        a1, b1 = truncated_tf32(a1), truncated_tf32(b1)
        return np.matmul(a1, b0) + np.matmul(a0, b1) + np.matmul(a0, b0)
    count = {"bf16x3": 2, "bf16x6": 3}[precision]
    left, right = (_parts(x, lambda y: from_bf16(to_bf16(y)), count) for x in (a, b))
    pairs = [(i, j) for i in range(count) for j in range(count) if i + j < count]
    smallest_first = sorted(pairs, key=sum, reverse=True)
    return functools.reduce(np.add, (np.matmul(left[i], right[j]) for i, j in smallest_first))


def _is_bf16(handle: Any) -> bool:
    return bool(handle.dtype.scalar == tl.bfloat16)


def _widened(handle: Any) -> Any:
    """The handle, as fp32 where it is bf16."""
    if not _is_bf16(handle):
        return handle
    return interpreter.TensorHandle(from_bf16(handle.data), tl.float32)


def _through_fp32(method: Callable[..., Any]) -> Callable[..., Any]:
    """Have an operation on bf16 numbers computed in fp32 and rounded, as the chips do."""

    @functools.wraps(method)
    def repaired(self: Any, *handles: Any) -> Any:
        tensors = [h for h in handles if isinstance(h, interpreter.TensorHandle)]
        if not any(_is_bf16(h) for h in tensors):
            return method(self, *handles)
        wide = [_widened(h) if isinstance(h, interpreter.TensorHandle) else h for h in handles]
        out = method(self, *wide)
        if out.data.dtype != np.float32:  # a comparison
            return interpreter.TensorHandle(out.data, tl.int1)
        return interpreter.TensorHandle(to_bf16(out.data), tl.bfloat16)

    return repaired


def _cast(self: Any, src: Any, dst_type: Any) -> Any:
    """A cast that rounds to nearest even."""
    data, dst = _widened(src).data, dst_type.scalar
    if dst == tl.bfloat16:
        data = src.data if _is_bf16(src) else to_bf16(data.astype(np.float32))
    else:
        data = data.astype(interpreter._get_np_dtype(dst))
    return interpreter.TensorHandle(data, dst)


def _rounding_cast(method: Callable[..., Any]) -> Callable[..., Any]:
    """A cast with a rounding mode: to nearest even among the types that NumPy or we can round."""
    plain = (tl.bfloat16, tl.float16, tl.float32, tl.float64)
    nearest = interpreter._ir.ROUNDING_MODE.RTNE

    @functools.wraps(method)
    def repaired(self: Any, src: Any, dst_type: Any, mode: Any) -> Any:
        if src.dtype.scalar in plain and dst_type.scalar in plain and mode in (None, nearest):
            return _cast(self, src, dst_type)
        return method(self, src, dst_type, mode)

    return repaired


def _dot(self: Any, a: Any, b: Any, d: Any, input_precision: Any, imprecise: Any) -> Any:
    """A product in fp32, of operands rounded as the input precision says."""
    left, right = _widened(a).data, _widened(b).data
    if left.dtype == np.float32 and a.dtype.scalar == tl.float32:
        product = fp32_dot(left, right, str(input_precision).rpartition(".")[2].lower())
    elif left.dtype in (np.float16, np.float32):
        product = np.matmul(left.astype(np.float32), right.astype(np.float32))
    else:
        product = np.matmul(left, right, dtype=d.data.dtype)
    total = product + _widened(d).data
    if _is_bf16(d):
        return interpreter.TensorHandle(to_bf16(total), tl.bfloat16)
    return interpreter.TensorHandle(total.astype(d.data.dtype), d.dtype.scalar)


def _reduce(method: Callable[..., Any]) -> Callable[..., Any]:
    """Have bf16 numbers reduced in fp32."""

    @functools.wraps(method)
    def repaired(self: Any, inputs: tuple[Any, ...]) -> Any:
        if not any(_is_bf16(x.handle) for x in inputs):
            return method(self, inputs)
        wide = tuple(self.to_tensor(_widened(x.handle).data, tl.float32) for x in inputs)
        out = method(self, wide)
        listed = list(out) if isinstance(out, list | tuple) else [out]
        back = []
        for x in listed:
            if x.handle.dtype.scalar == tl.float32:
                bits = to_bf16(x.handle.data)
                x = self.to_tensor(bits if x.type.is_block() else bits.item(), tl.bfloat16)
            back.append(x)
        return back

    return repaired


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let infinity minus infinity and rows of NaN be NaN without a word, as on a chip."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice encountered", RuntimeWarning)
        yield


def _quietly(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def repaired(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _quiet():
            return method(self, *args, **kwargs)

    return repaired


def _with_options(init: Callable[..., None]) -> Callable[..., None]:
    precisions = ("tf32", "tf32x3", "ieee", "bf16x3", "bf16x6")

    @functools.wraps(init)
    def repaired(self: Any) -> None:
        init(self)
        self.options = dataclasses.replace(
            self.options,
            allowed_dot_input_precisions=precisions,
            sanitize_overflow=False,  # work for an assertion that only debug would make
        )

    return repaired


def _with_index(patch: Callable[..., Any]) -> Callable[..., Any]:
    """NumPy 2.4 makes no int of an array with axes, which every scalar of the interpreter has."""

    @functools.wraps(patch)
    def repaired(tensor: Any, scope: Any) -> Any:
        result = patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))
        return result

    return repaired


def repair() -> None:
    """Repair the interpreter of this process, once; before a kernel runs."""
    builder = interpreter.InterpreterBuilder
    if getattr(builder, "repaired", False):
        return
    builder.repaired = True
    for name in ("binary_op", "unary_op", "ternary_op", "create_fma"):
        setattr(builder, name, _through_fp32(getattr(builder, name)))
    builder.cast_impl = _cast
    builder.create_fp_to_fp = _rounding_cast(builder.create_fp_to_fp)
    builder.create_dot = _dot
    builder.create_maxnumf = lambda self, a, b: self.binary_op(a, b, np.fmax)
    builder.create_minnumf = lambda self, a, b: self.binary_op(a, b, np.fmin)
    builder.get_bf16 = lambda self, value: interpreter.TensorHandle(
        to_bf16(np.array([value], np.float32)), tl.bfloat16
    )
    builder.__init__ = _with_options(builder.__init__)
    interpreter.interpreter_builder.__init__()
    interpreter.ReduceOps.apply_impl = _reduce(interpreter.ReduceOps.apply_impl)
    interpreter.GridExecutor.__call__ = _quietly(interpreter.GridExecutor.__call__)
    interpreter._patch_lang_tensor = _with_index(interpreter._patch_lang_tensor)
    hasten()
