"""Triton's interpreter made quicker: the same results, with less built for each of them."""

import functools
import math
from collections.abc import Callable
from typing import Any

import triton.language as tl
from triton.runtime import interpreter

core = tl.core


def _outermost(patch: Callable[..., Any]) -> Callable[..., Any]:
    """Have the language patched by the function that is launched, not again by all that it calls.

    Looking for what to patch takes longer than most of the functions do.
    """
    patched: set[tuple[bool, bool]] = set()

    @functools.wraps(patch)
    def repaired(fn: Any) -> Any:
        modules = [value for value in fn.__globals__.values() if value is tl or value is core]
        # what is patched depends on which of the two the function's module knows
        kind = (tl in modules, core in modules)
        if kind in patched:
            return interpreter._LangPatchScope()
        scope = patch(fn)
        restore = scope.restore
        patched.add(kind)

        def restored() -> None:
            patched.discard(kind)
            restore()

        scope.restore = restored
        return scope

    return repaired


@functools.cache
def _dims(shape: tuple[int, ...]) -> tuple[Any, Any]:
    """A tensor's shape and number of elements, as its attributes hold them."""
    return core.tuple([tl.constexpr(size) for size in shape]), tl.constexpr(math.prod(shape))


def _init_tensor(self: Any, handle: Any, type: Any) -> None:
    """``tl.tensor.__init__``, with the attributes of a shape made once."""
    self.handle, self.type, self.dtype = handle, type, type.scalar
    self.shape, self.numel = _dims(tuple(type.shape) if type.is_block() else ())


def _remembering_blocks(init: Callable[..., None]) -> Callable[..., None]:
    """Check a block type's shape, and count and name its elements, once for each type."""
    known: dict[tuple[str, tuple[int, ...]], tuple[Any, int, str]] = {}

    @functools.wraps(init)
    def repaired(self: Any, element_ty: Any, shape: Any) -> None:
        key = (element_ty.name, tuple(core._unwrap_shape(shape)))
        found = known.get(key)
        if found is None:
            init(self, element_ty, shape)
            known[key] = (self.shape, self.numel, self.name)
        else:
            self.element_ty = element_ty
            self.shape, self.numel, self.name = found

    return repaired


def _remembering_dtypes(find: Callable[..., Any]) -> Callable[..., Any]:
    """Have NumPy's type of a Triton type found once."""
    known: dict[str, Any] = {}

    @functools.wraps(find)
    def repaired(dtype: Any) -> Any:
        name = dtype.element_ty.name if dtype.is_block() else dtype.name
        if name not in known:
            known[name] = find(dtype)
        return known[name]

    return repaired


def hasten() -> None:
    """Make the interpreter of this process quicker, once; before a kernel runs."""
    if getattr(core.tensor.__init__, "hastened", False):
        return
    _init_tensor.hastened = True  # type: ignore[attr-defined]
    core.tensor.__init__ = _init_tensor
    core.block_type.__init__ = _remembering_blocks(core.block_type.__init__)
    interpreter._get_np_dtype = _remembering_dtypes(interpreter._get_np_dtype)
    interpreter._patch_lang = _outermost(interpreter._patch_lang)
