"""How much is measured: more samples and draws give surer results and take longer."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Effort:
    """A row of EFFORTS.

    Attributes:
        rounds: Samples that each configuration gets in each round of the search, after which the
            slower half is dropped.
        samples: Samples of the final timing, where there is time for them.
        draws: Draws of each input family on which errors are measured; the worst one counts.
        rows: Query rows of each head that are compared with exact attention.
        groups: Pairs of a request and a KV head whose rows are.
    """

    rounds: tuple[int, ...]
    samples: int
    draws: int
    rows: int
    groups: int


EFFORTS: dict[str, Effort] = {
    "quick": Effort(rounds=(1, 2), samples=10, draws=1, rows=64, groups=16),
    "normal": Effort(rounds=(1, 2, 4), samples=30, draws=1, rows=128, groups=32),
    "thorough": Effort(rounds=(2, 4, 8), samples=100, draws=5, rows=512, groups=128),
}
