"""Packed masks, against NumPy's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprec.errors import InputError
from autoprec.flashinfer import packbits, segment_packbits

segments = st.lists(st.lists(st.booleans(), max_size=19), max_size=5)
orders = st.sampled_from(("big", "little"))


@settings(deadline=None)
@given(bits=st.lists(st.booleans(), max_size=40), order=orders)
def test_bits_are_packed_as_numpy_packs_them(bits: list[bool], order: str) -> None:
    got = packbits(torch.tensor(bits, dtype=torch.bool), order)
    want = np.packbits(np.array(bits, bool), bitorder=order)  # type: ignore[call-overload]
    assert got.dtype == torch.uint8
    assert got.tolist() == want.tolist()


@settings(deadline=None)
@given(lists=segments, order=orders, wide=st.booleans())
def test_segments_start_with_a_byte_each(lists: list[list[bool]], order: str, wide: bool) -> None:
    x = torch.tensor([bit for bits in lists for bit in bits], dtype=torch.bool)
    indptr = torch.tensor([0, *(len(bits) for bits in lists)]).cumsum(0)
    packed, starts = segment_packbits(x, indptr if wide else indptr.int(), order)
    assert starts.dtype == torch.int32
    for i, bits in enumerate(lists):
        want = np.packbits(np.array(bits, bool), bitorder=order)  # type: ignore[call-overload]
        assert packed[starts[i] : starts[i + 1]].tolist() == want.tolist()
    assert len(packed) == starts[-1]


def test_what_cannot_be_packed() -> None:
    with pytest.raises(InputError, match=r"^x \(2, 2\) must have one dimension\. Try: "):
        packbits(torch.ones(2, 2))
    with pytest.raises(InputError, match=r"^bitorder must be big or little, got 'middle'\.$"):
        packbits(torch.ones(2), "middle")
    with pytest.raises(InputError, match=r"^x has 3 elements, and indptr ends with 4\.$"):
        segment_packbits(torch.ones(3), torch.tensor([0, 1, 4]))
