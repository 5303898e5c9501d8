"""Arguments are called and ordered as in FlashInfer 0.6.13, and have its defaults."""

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

TABLE = (
    Path(__file__).with_name("flashinfer_signatures.txt").read_text(encoding="utf-8").splitlines()
)

OURS = "precision"  # what our functions may take beyond, by name alone


def theirs() -> list[tuple[str, str]]:
    return [(name, f"({arguments}") for name, _, arguments in (x.partition("(") for x in TABLE)]


@pytest.mark.parametrize(("name", "signature"), theirs(), ids=[name for name, _ in theirs()])
def test_signature(name: str, signature: str) -> None:
    module, *rest = name.split(".")
    found: Any = importlib.import_module(f"autoprec.flashinfer.{module}")
    for part in rest:
        found = inspect.getattr_static(found, part)
    if isinstance(found, property):
        found = found.fget
    ours = inspect.signature(found)
    parameters = [
        p.replace(annotation=inspect.Parameter.empty)
        for p in ours.parameters.values()
        if not (p.name == OURS and p.kind is p.KEYWORD_ONLY and p.default is None)
    ]
    bare = ours.replace(parameters=parameters, return_annotation=inspect.Signature.empty)
    assert str(bare) == signature
