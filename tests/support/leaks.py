"""What a process holds: memory of the device and of the host, tensors, and what is in containers.

Measured before and after many calls, it says whether calls leave anything behind.
"""

import gc
import os
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor

_MIB = 1 << 20

# What is freed need not go back to the system at once: glibc keeps blocks of up to so much
# (DEFAULT_MMAP_THRESHOLD_MAX). A tensor that is left behind takes some 500 bytes of the host.
HOST_SLACK = 32 * _MIB

# Free memory of a stream's pool may be cut up in another order, and then takes a segment more.
SEGMENT = 20 * _MIB

_CONTAINERS = (dict, list, set, frozenset, tuple, deque, WeakKeyDictionary, WeakValueDictionary)


@dataclass(frozen=True)
class Held:
    """What is held at a moment.

    Attributes:
        tensors: How many live, on any device.
        device_bytes: Of tensors: as PyTorch's allocator counts them on a GPU, on a CPU those of
            their storages.
        reserved_bytes: That PyTorch's allocator has of a GPU; 0 on a CPU.
        host_bytes: Resident memory of this process.
        containers: How many things are in each dictionary, list and set, by where it is; the
            largest of those that are alike.
    """

    tensors: int
    device_bytes: int
    reserved_bytes: int
    host_bytes: int
    containers: Mapping[str, int]


def held(device: str, roots: Mapping[str, object]) -> Held:
    """What is held now, once what can go is gone and the device has nothing left to do.

    Args:
        device: ``cpu`` or ``cuda``.
        roots: Objects to look into, by name, beside the package's modules.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
    tensors = [it for it in gc.get_objects() if issubclass(type(it), Tensor)]
    return Held(
        tensors=len(tensors),
        device_bytes=torch.cuda.memory_allocated() if device == "cuda" else _bytes(tensors),
        reserved_bytes=torch.cuda.memory_reserved() if device == "cuda" else 0,
        host_bytes=_resident(),
        containers=_containers(roots),
    )


def grown(before: Held, after: Held, limits: Mapping[str, int], streams: int) -> list[str]:
    """What there is more of after than before, in sentences.

    Args:
        limits: How much may be in containers that are known to forget, by the end of their names.
        streams: That calls were queued on.
    """
    found = []
    if after.tensors > before.tensors:
        found.append(f"{after.tensors - before.tensors} tensors more")
    for name, more, allowed in (
        ("allocated", after.device_bytes - before.device_bytes, 0),
        ("reserved", after.reserved_bytes - before.reserved_bytes, streams * SEGMENT),
        ("resident", after.host_bytes - before.host_bytes, HOST_SLACK),
    ):
        if more > allowed:
            found.append(f"{more} bytes more {name}, {allowed} are allowed")
    for name, count in after.containers.items():
        allowed = before.containers.get(name, 0)
        allowed = max([allowed, *(most for end, most in limits.items() if name.endswith(end))])
        if count > allowed:
            found.append(f"{count} things in {name}, {allowed} are allowed")
    return found


def _bytes(tensors: Iterable[Tensor]) -> int:
    sizes = {}
    for tensor in tensors:
        if tensor.layout is torch.strided and tensor.device.type == "cpu":
            storage = tensor.untyped_storage()
            with suppress(RuntimeError):  # a tensor without memory, of a test of compiling
                sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def _resident() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]  # Linux, as Triton is
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _containers(roots: Mapping[str, object]) -> dict[str, int]:
    """The sizes of containers, from the roots and the package's modules on."""
    found: dict[str, int] = {}
    seen: set[int] = set()
    modules = {
        name: vars(module)
        for name, module in sorted(sys.modules.items())
        if name.partition(".")[0] == "autoprec" and isinstance(module, ModuleType)
    }
    for name, root in roots.items():
        _look(name, root, found, seen)
    for module, names in modules.items():
        for name, it in list(names.items()):
            if not name.startswith("__"):
                _look(f"{module}.{name}", it, found, seen)
    return found


def _look(name: str, it: Any, found: dict[str, int], seen: set[int]) -> None:
    """Note the size of a container, and of those in it, or in what the package made."""
    if id(it) in seen or isinstance(it, (str, bytes, type, ModuleType, Tensor)):
        return
    if callable(it) and hasattr(it, "cache_info"):
        found[name] = it.cache_info().currsize
    elif isinstance(it, _CONTAINERS):
        seen.add(id(it))
        if not isinstance(it, tuple):
            found[name] = max(found.get(name, 0), len(it))
        for value in list(it.values() if isinstance(it, Mapping) else it):
            _look(f"{name}[]", value, found, seen)
    elif type(it).__module__.partition(".")[0] == "autoprec":
        seen.add(id(it))
        slots = [slot for kind in type(it).__mro__ for slot in getattr(kind, "__slots__", ())]
        for attribute in (*getattr(it, "__dict__", ()), *slots):
            if hasattr(it, attribute):
                _look(f"{name}.{attribute}", getattr(it, attribute), found, seen)
