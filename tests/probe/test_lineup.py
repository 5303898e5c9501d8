import pytest

from autoprec.probe.lineup import joined
from autoprec.registry import Unavailable


@pytest.mark.parametrize(
    ("refusals", "expected"),
    [
        ([("one", "one needs a GPU")], ("one", "one needs a GPU")),
        (
            [("one", "one needs a GPU"), ("two", "two needs a GPU")],
            ("", "needs a GPU (one, two)"),
        ),
        (  # what all say is enough
            [
                ("one", "fp16x3 is for fp32 inputs, not bf16"),
                ("two", "fp16x3 is for fp32 inputs, not bf16; two serves decode, not prefill"),
            ],
            ("", "fp16x3 is for fp32 inputs, not bf16"),
        ),
        (  # where they differ, each says its own, and what some share is said once
            [
                ("one", "one serves decode, not prefill; one has no soft cap"),
                ("two", "two has no soft cap; two takes head dims up to 64, not 128"),
                ("three", "three needs a GPU"),
            ],
            (
                "",
                "serves decode, not prefill (one); has no soft cap (one, two); takes head dims up "
                "to 64, not 128 (two); needs a GPU (three)",
            ),
        ),
        (
            [
                ("prefill", "autoprec.kernels.prefill cannot be imported: no triton"),
                ("decode", "autoprec.kernels.decode cannot be imported: no triton"),
            ],
            ("", "cannot be imported: no triton (prefill, decode)"),
        ),
    ],
)
def test_one_refusal_for_each_path(
    refusals: list[tuple[str, str]], expected: tuple[str, str]
) -> None:
    alone = Unavailable("one", "tf32", "one needs a GPU")
    (first, second) = joined([*(Unavailable(k, "fp16x3", why) for k, why in refusals), alone])
    assert first == Unavailable(expected[0], "fp16x3", expected[1])
    assert second == alone
