"""Descriptors of tensors for the copy engine, made again over other addresses.

Triton's launcher reads a descriptor's fields at each launch, to fill in the one of 128 bytes that
the hardware takes, at about a microsecond each. Those are not kept here: they are made behind what
Triton shows, in another way in each of its releases, and filling one is less than finding it.
"""

from typing import Any

from triton.experimental.gluon.nvidia.hopper import TensorDescriptor as GluonDescriptor
from triton.tools.tensor_descriptor import TensorDescriptor


def is_descriptor(value: object) -> bool:
    """Whether an argument of a launch describes a tensor, in fields that can be copied."""
    return isinstance(value, TensorDescriptor | GluonDescriptor) and hasattr(value, "__dict__")


class _Address:
    """A tensor of which nothing is known but where it begins, as Triton's launcher asks for it."""

    __slots__ = ("_address",)

    def __init__(self, address: int) -> None:
        self._address = address

    def data_ptr(self) -> int:
        """Where it begins."""
        return self._address


class Described:
    """A descriptor but for its tensor, which is not held: shape, strides, block, layout, padding.

    What a descriptor is refused for, as it is made, was looked at in the one given: all but the
    address, which must leave as much when divided by 16.
    """

    __slots__ = ("_fields", "_kind")

    def __init__(self, descriptor: Any) -> None:
        """Take the fields of a descriptor, all but its ``base``."""
        self._kind = type(descriptor)
        self._fields = {name: it for name, it in vars(descriptor).items() if name != "base"}

    def at(self, address: int) -> Any:
        """The same over an address; the fields are shared, and nobody writes to them."""
        it = object.__new__(self._kind)
        it.__dict__.update(self._fields, base=_Address(address))
        return it
