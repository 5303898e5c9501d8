"""How much is measured: more samples and draws give surer results and take longer."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Effort:
    """A row of EFFORTS.

    Attributes:
        rounds: Samples that each configuration gets in each round of the search, after which the
            slower half is dropped.
        samples: Samples of the final timing, where there is time for them.
        rows: Query rows of each head that are compared with exact attention.
        groups: Pairs of a request and a KV head whose rows are, on the inputs that are timed.
        confidence: Wanted of the bounds on errors, unless asked otherwise.
        prunes: Whether paths are left out whose expected error is far over the budget.
    """

    rounds: tuple[int, ...]
    samples: int
    rows: int
    groups: int
    confidence: float = 0.95
    prunes: bool = False


EFFORTS: dict[str, Effort] = {
    "quick": Effort(rounds=(1, 2), samples=10, rows=64, groups=16, confidence=0.5, prunes=True),
    "normal": Effort(rounds=(1, 2, 4), samples=20, rows=128, groups=32),
    "thorough": Effort(rounds=(2, 4, 8), samples=100, rows=512, groups=128, confidence=0.99),
}
