"""Memory that launches use among themselves, taken anew for each run of them.

It is not kept between runs: threads and streams may run at once, and what is kept may come to lie
in memory that a CUDA graph believes its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from autoprec.kernels.interface import Launch

_APART = 128  # bytes: a cache line, and more than the 16 to which addresses are looked at
_SMALL = 1 << 16  # bytes that are taken together with others, since taking costs the host most


@dataclass(frozen=True, slots=True)
class Room:
    """Memory to be taken: bytes on a device, zero or not written yet."""

    nbytes: int
    zeroed: bool
    device: torch.device

    def take(self) -> torch.Tensor:
        """Take it, on the current stream."""
        make = torch.zeros if self.zeroed else torch.empty
        return make(self.nbytes, dtype=torch.uint8, device=self.device)


class Temporaries:
    """What some launches name as temporary, and the rooms that serve them.

    A tensor that several launches share, or several arguments lie within, is in one place.

    Attributes:
        rooms: To be taken for each run.
    """

    def __init__(self, launches: Sequence[Launch]) -> None:
        """Place the temporary tensors of launches; an argument that is no tensor has no place.

        Large ones have rooms of their own, of just their size, which torch has at hand from the
        run before.
        """
        storages: dict[int, tuple[torch.UntypedStorage, bool]] = {}
        for launch in launches:
            for name in dict.fromkeys((*launch.temporary, *launch.zeroed)):
                tensor = launch.arguments[name]
                if isinstance(tensor, torch.Tensor):
                    storage = tensor.untyped_storage()
                    zeroed = name in launch.zeroed
                    before = storages.get(storage.data_ptr(), (storage, False))[1]
                    storages[storage.data_ptr()] = storage, zeroed or before
        rooms: list[Room] = []
        shared: dict[tuple[bool, torch.device], int] = {}
        self._places: list[tuple[range, int, int]] = []
        for first, (storage, zeroed) in storages.items():
            nbytes, kind = storage.nbytes(), (zeroed, storage.device)
            number, offset = len(rooms), 0
            if nbytes <= _SMALL and kind in shared:
                number = shared[kind]
                offset = -(-rooms[number].nbytes // _APART) * _APART
                rooms[number] = Room(offset + nbytes, *kind)
            else:
                rooms.append(Room(nbytes, *kind))
                if nbytes <= _SMALL:
                    shared[kind] = number
            self._places.append((range(first, first + nbytes), number, offset))
        self.rooms = tuple(rooms)

    def find(self, address: int) -> tuple[int, int] | None:
        """The number of the room that an address lies in, and how many bytes in; None: in none."""
        for there, number, offset in self._places:
            if address in there:
                return number, offset + address - there.start
        return None
