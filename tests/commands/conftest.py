"""Whole commands: run in this process, on a machine that is made up.

Imports stand inside the fixtures: pytest may load this file before tests/conftest.py has chosen
between Triton's interpreter and its compiler, and what imports torch may import Triton.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from command_line import Cli, Ended

    from autoprec.types import Measurement


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "Cli":
    from command_line import Ended

    from autoprec import cli

    def run(*words: str) -> "Ended":
        monkeypatch.setattr(sys, "argv", ["autoprec", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A machine on which every path takes 1 ms, and fp32 is accurate; what it was asked."""
    import made_up

    from autoprec import tune as tuning
    from autoprec.probe.events import Measured, Planned

    asked: dict[str, Any] = {}

    def measure(workloads: Any, **more: Any) -> Iterator["Measurement"]:
        asked.update(more, workloads=workloads, seen=0)
        more["observe"](Planned(len(workloads)))
        for workload in workloads:
            for path in more["paths"]:
                if asked["seen"] == asked.get("interrupt_at"):
                    raise KeyboardInterrupt
                row = made_up.measurement(
                    path, 1.0, 5e-7 if path == "fp32" else 3e-3, workload=workload
                )
                row = replace(row, **asked.get("changes", {}))
                asked["seen"] += 1
                more["observe"](Measured(row))
                yield row
            if "baseline" in asked:
                yield made_up.measurement(asked["baseline"], workload=workload)

    monkeypatch.setattr(tuning, "measure", measure)
    monkeypatch.setattr(tuning.probe_device, "environment", lambda device: made_up.environment())
    monkeypatch.setattr(tuning.probe_ceilings, "measure", lambda device: made_up.ceilings())
    return asked


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    import made_up

    from autoprec import profile

    file = tmp_path / "h100.json"
    profile.write(made_up.profile(), file)
    return file
