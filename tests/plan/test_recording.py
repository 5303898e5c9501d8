"""What of a call is looked at before anything of it is copied."""

import pytest
import torch

from autoprec.plan.recording import Recording, Seen


@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_types_are_looked_at_before_anything_is_copied(which: str) -> None:
    recording = Recording(calls=4, heads=2, tokens=8, max_bytes=1 << 20)
    given = {name: torch.empty(1, 2, 5, 8, device="meta") for name in "qkv"}
    given[which] = given[which].double()
    # what is on no device cannot be copied
    recording.take("a layer", Seen(**given, mask=None, causal=True, sm_scale=None))
    assert recording.left_out == {"tensors in torch.float64": 1}
    assert recording.layers == []


def test_it_says_what_it_holds() -> None:
    recording = Recording(calls=2, heads=2, tokens=8, max_bytes=1 << 20)
    assert repr(recording) == "<Recording of 0 layers: 0 calls kept of 0, 0.0 MiB>"
    q, k = torch.zeros(1, 4, 8, 64), torch.zeros(1, 2, 8, 64)
    for _ in range(3):
        recording.take("a layer", Seen(q, k, k, None, causal=True, sm_scale=None))
    assert repr(recording) == "<Recording of 1 layer: 2 calls kept of 3, 0.0 MiB>"
