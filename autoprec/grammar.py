"""The budget's grammar: text → clauses, and a complaint that points at the character.

    budget  = clause {"," clause}
    clause  = {scope ":"} (number | preset | metric ("<=" | ">=") number)
    scope   = "prefill" | "append" | "decode" | "layer" N ["-" N]
    metric  = "rel_l2" | "bits" | "row_rel.p999" | "row_rel.max" | "max_abs" | "lse_abs"
            | "ratio:fp32" | "ratio:torch"

A number alone bounds rel_l2; bits takes >=, all others <=. Spaces mean nothing. A metric is bounded
once in a scope; where a preset bounds it too, the tighter bound is kept, for all clauses must hold.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from autoprec.errors import InputError
from autoprec.types import Phase

PRESETS = {
    "fp32": ("ratio:fp32<=2", "at most twice the error of fp32 attention, on every family"),
    "strict": (
        "rel_l2<=1e-4,row_rel.p999<=1e-3,lse_abs<=1e-3",
        "single rows and the log-sum-exp held too: evaluation, long contexts, reference runs",
    ),
    "balanced": (
        "rel_l2<=1e-2,row_rel.p999<=5e-2",
        "serving 16-bit models: no worse than their own roundings, no row far off",
    ),
    "fa-parity": ("ratio:torch<=2", "at most twice the error of PyTorch in the same dtype"),
    "rl": (
        "row_rel.p999<=5e-3,lse_abs<=5e-3",
        "training and inference of one policy kept close: a starting point, to be checked on "
        "your log-probabilities",
    ),
}
"""Budgets with a name: what each stands for, and what it is for."""

_HINT = "a budget such as 1e-3, which means rel_l2<=1e-3; or " + ", ".join(PRESETS)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_NAME = re.compile(r"[a-z_][a-z_0-9.-]*")
_LAYERS = re.compile(r"layer(\d{1,6})(?:-(\d{1,6}))?$")


@dataclass(frozen=True)
class Scope:
    """Where a clause holds: None stands for every phase, and for every layer."""

    phase: Phase | None = None
    layers: tuple[int, int] | None = None

    def covers(self, phase: Phase, layer: int | None) -> bool:
        """Whether a phase and layer are in it."""
        if self.phase not in (None, phase):
            return False
        return self.layers is None or (
            layer is not None and self.layers[0] <= layer <= self.layers[1]
        )

    @property
    def rank(self) -> int:
        """Larger for a narrower scope: layers before phases."""
        return (self.phase is not None) + 2 * (self.layers is not None)

    def __str__(self) -> str:
        """As a prefix of a clause, such as ``decode:layer0-3:``; "" for everywhere."""
        phase = f"{self.phase}:" if self.phase else ""
        if self.layers is None:
            return phase
        first, last = self.layers
        return f"{phase}layer{first}:" if first == last else f"{phase}layer{first}-{last}:"


EVERYWHERE = Scope()


@dataclass(frozen=True)
class Parsed:
    """A clause as it was read.

    Attributes:
        preset: Whether it stands for a name, and was not written itself.
    """

    metric: str
    bound: float
    scope: Scope
    preset: bool = False

    def joined(self, other: "Parsed") -> "Parsed":
        """The tighter of two for one metric; a preset's where both are."""
        pick = max if self.metric == "bits" else min
        bound = pick(self.bound, other.bound)
        return replace(self, bound=bound, preset=self.preset and other.preset)


def read(text: str, metrics: Iterable[str]) -> list[Parsed]:
    """The clauses of a budget, presets written out.

    Args:
        text: In the grammar above.
        metrics: Names of metrics.

    Raises:
        InputError: It is not in the grammar; the sentence points at the character.
    """
    return _Reader(text, tuple(metrics)).budget()


class _Reader:
    """Reads a text from left to right; ``at`` is where it stands."""

    def __init__(self, text: str, metrics: tuple[str, ...]) -> None:
        self.text, self.metrics, self.at = text, metrics, 0

    def budget(self) -> list[Parsed]:
        found: dict[tuple[str, Scope], Parsed] = {}
        while True:
            self.spaces()
            start = self.at
            for it in self.clause():
                before = found.get((it.metric, it.scope))
                if before and not (it.preset or before.preset):
                    self.at = start
                    raise self.wrong(f"{it.metric} has a bound already")
                found[it.metric, it.scope] = before.joined(it) if before else it
            self.spaces()
            if self.at == len(self.text):
                return list(found.values())
            if not self.take(","):
                raise self.wrong("a comma or the end was expected")

    def clause(self) -> Iterator[Parsed]:
        scope = self.scopes()
        if match := self.match(_NUMBER):
            yield Parsed("rel_l2", self.number(match), scope)
            return
        start = self.at
        name = self.name()
        if name in PRESETS and name not in self.metrics:
            for it in read(PRESETS[name][0], self.metrics):
                yield replace(it, scope=scope, preset=True)
            return
        if name not in self.metrics:
            self.at = start
            raise self.wrong(
                f"{name!r} is no metric ({', '.join(self.metrics)}) "
                f"and no preset ({', '.join(PRESETS)})"
            )
        sign = ">=" if name == "bits" else "<="
        self.spaces()
        if not self.take(sign):
            raise self.wrong(f"{sign} was expected after {name}")
        self.spaces()
        match = self.match(_NUMBER)
        if match is None:
            raise self.wrong("a number was expected")
        yield Parsed(name, self.number(match), scope)

    def scopes(self) -> Scope:
        """The scopes before a clause; ``ratio:`` begins a metric and is none."""
        scope = EVERYWHERE
        while True:
            self.spaces()
            start = self.at
            match = self.match(_NAME)
            self.spaces()
            name = match[0] if match else ""
            if not name or name == "ratio" or not self.take(":"):
                self.at = start
                return scope
            found = self.scope(name, start)
            if (found.phase and scope.phase) or (found.layers and scope.layers):
                self.at = start
                raise self.wrong(f"{name} joins another {'phase' if found.phase else 'layer'}")
            scope = Scope(found.phase or scope.phase, found.layers or scope.layers)

    def scope(self, name: str, start: int) -> Scope:
        if name in list(Phase):
            return Scope(phase=Phase(name))
        layers = _LAYERS.match(name)
        if layers is None:
            self.at = start
            raise self.wrong(
                f"{name!r} is no phase ({', '.join(Phase)}) and no layer (layer3, layer0-7)"
            )
        first, last = int(layers[1]), int(layers[2] or layers[1])
        if first > last:
            self.at = start
            raise self.wrong(f"{name} ends before it begins")
        return Scope(layers=(first, last))

    def name(self) -> str:
        """A metric or a preset."""
        match = self.match(_NAME)
        if match is None:
            raise self.wrong("a number, a metric or a preset was expected")
        if match[0] == "ratio" and self.take(":"):
            other = self.match(_NAME)
            return f"ratio:{other[0] if other else ''}"
        return match[0]

    def number(self, match: re.Match[str]) -> float:
        value = float(match[0])
        if not 0 < value < math.inf:
            self.at = match.start()
            raise self.wrong(f"a bound must be above zero and finite, got {value:g}")
        return value

    def spaces(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def take(self, mark: str) -> bool:
        found = self.text.startswith(mark, self.at)
        self.at += len(mark) if found else 0
        return found

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self.text, self.at)
        self.at = found.end() if found else self.at
        return found

    def wrong(self, what: str) -> InputError:
        """A complaint about the character at which reading stands."""
        shown = self.text if len(self.text) <= 80 else self.text[: self.at + 1][-40:] + "…"
        where = f"at character {self.at + 1}" if self.at < len(self.text) else "at its end"
        character = f", {self.text[self.at]!r}" if self.at < len(self.text) else ""
        return InputError(f"the budget {shown!r} cannot be read {where}{character}: {what}.", _HINT)
