"""``autoprec paths``: every precision path, what runs it here, and why not what does not."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import pandas as pd

from autoprec.paths import PATHS, Path
from autoprec.report.document import Align, Column, Document, Row, Section
from autoprec.report.formats import write
from autoprec.report.numbers import MISSING, error, listed

COLUMNS = {
    "path": "precision path; empty for a kernel that could not be loaded",
    "operand": "type of what the matrix products multiply",
    "qk_products": "matrix products that form QK^T",
    "pv_products": "matrix products that form PV",
    "inputs": "types of q, k and v it is for",
    "expected_rel_l2": "relative L2 error to expect of N(0, 1) inputs of the first of these types",
    "kernel": "what runs it; empty where nothing does",
    "phases": "phases the kernel serves",
    "runs": "whether it runs here",
    "reason": "why not; empty where it runs",
    "summary": "the path in one line",
}
"""Columns of the records: one for each path and kernel."""


class Offered(Protocol):
    """A kernel and a path it has, and whether it runs here: what ``registry.overview`` gives."""

    @property
    def kernel(self) -> str:
        """The kernel's name, or that of a module that could not be imported."""

    @property
    def path(self) -> str:
        """A name of ``paths.PATHS``; "" where it is not known."""

    @property
    def phases(self) -> Sequence[str]:
        """The phases the kernel serves; () where they are not known."""

    @property
    def reason(self) -> str:
        """Why it does not run here; "" where it does."""


@dataclass(frozen=True)
class _Unserved:
    """A path that no kernel has."""

    path: str
    kernel: str = ""
    phases: tuple[str, ...] = ()
    reason: str = "no kernel runs this path"


def render(offers: Iterable[Offered], format: str = "table") -> str:
    """Every path and kernel; ends in a line feed.

    Args:
        offers: Every kernel's paths on this machine.
        format: A name of ``formats.FORMATS``.

    Raises:
        InputError: There is no such format.
    """
    return write(document(list(offers)), format)


def document(offers: Sequence[Offered]) -> Document:
    """A table of the paths, a table of the kernels, and a record for each pair of both."""
    running = {offer.path for offer in offers if not offer.reason}
    unserved = [_Unserved(name) for name in PATHS if all(offer.path != name for offer in offers)]
    order = [*PATHS, ""]
    records = sorted([*offers, *unserved], key=lambda offer: order.index(offer.path))
    return Document(
        facts=(),
        sentences=(f"Precision paths that run here: {len(running)} of {len(PATHS)}.",),
        sections=(_paths(offers), _kernels(offers)),
        notes=(
            "products: matrix products that form QK^T, and PV",
            "rel_l2: the error to expect of N(0, 1) inputs of the first type; autoprec tune "
            "measures it",
        ),
        records=lambda: pd.DataFrame(
            [_record(offer) for offer in records], columns=list(COLUMNS)
        ).astype({"qk_products": "Int64", "pv_products": "Int64"}),
    )


def _paths(offers: Sequence[Offered]) -> Section:
    return Section(
        "precision paths",
        (
            Column("path"),
            Column("operands"),
            Column("products"),
            Column("inputs"),
            Column("rel_l2", Align.RIGHT),
            Column("runs here by"),
            Column("what it does", fills=True),
        ),
        tuple(_path(path, offers) for path in PATHS.values()),
    )


def _path(path: Path, offers: Sequence[Offered]) -> Row:
    kernels = [offer.kernel for offer in offers if offer.path == path.name and not offer.reason]
    return Row((
        path.name,
        path.operand,
        f"{path.qk_products}+{path.pv_products}",
        " ".join(path.inputs),
        error(path.expected_rel_l2),
        ", ".join(kernels) or MISSING,
        path.summary,
    ))  # fmt: skip


def _kernels(offers: Sequence[Offered]) -> Section:
    """A row for each kernel, and below them why the ones that run nothing here do not."""
    rows, notes = [], []
    for kernel in dict.fromkeys(offer.kernel for offer in offers):
        its = [offer for offer in offers if offer.kernel == kernel]
        runs = sum(not offer.reason for offer in its)
        known = [offer for offer in its if offer.path]
        phases = ", ".join(its[0].phases) or MISSING
        rows.append(Row((kernel, phases, f"{runs} of {len(known)}" if known else "no")))
        for reason in dict.fromkeys(offer.reason for offer in its if offer.reason):
            paths = [offer.path for offer in its if offer.reason == reason and offer.path]
            of = f", {listed(paths)}" if len(paths) < len(known) else ""
            notes.append(f"{kernel}{of}: {reason.removeprefix(f'{kernel} ')}")
    columns = (Column("kernel"), Column("phases"), Column("paths that run here"))
    return Section("kernels", columns, tuple(rows), tuple(notes))


def _record(offer: Offered) -> dict[str, object]:
    path = PATHS.get(offer.path)
    return {
        "path": offer.path,
        "operand": path and path.operand,
        "qk_products": path and path.qk_products,
        "pv_products": path and path.pv_products,
        "inputs": path and " ".join(path.inputs),
        "expected_rel_l2": path and path.expected_rel_l2,
        "kernel": offer.kernel,
        "phases": " ".join(offer.phases),
        "runs": not offer.reason,
        "reason": offer.reason,
        "summary": path and path.summary,
    }
