"""The direction of imports, and what stays light."""

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Every import points to the same level or a lower one. A package's name stands for its modules.
LEVELS = (
    ("errors", "types", "paths", "budget", "grammar", "draws", "sizes", "geometry", "model_config",
     "model_layers", "workloads", "jsonfile"),
    ("kernels",),
    ("registry",),
    ("probe", "policy", "profile"),
    ("plan", "report", "tune", "verify", "bench"),
    ("commands", "flashinfer", "transformers"),
    ("cli",),
    ("__main__",),
)  # fmt: skip
APART = (
    {"probe", "policy"},
    {"plan", "report"},
    {"commands", "flashinfer"},
    {"commands", "transformers"},
)
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}

# Decisions and reports are made and tested where there is no GPU and no torch.
WITHOUT_TORCH = (*LEVELS[0], "policy", "profile", "report")


def modules() -> Iterator[tuple[str, Path]]:
    """Every module's name without ``autoprec.``, and its file."""
    for folder, prefix in ((ROOT / "autoprec", ()), (ROOT / "kernels", ("kernels",))):
        for file in sorted(folder.rglob("*.py")):
            parts = (*prefix, *file.relative_to(folder).with_suffix("").parts)
            name = ".".join(part for part in parts if part != "__init__")
            if name:
                yield name, file


MODULES = dict(modules())


def imported(tree: ast.AST) -> Iterator[str]:
    """The full names of what a module imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "autoprec":
            yield from (f"autoprec.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "relative imports are not used"
            yield node.module


def room(name: str) -> str:
    return name.split(".")[0]


def offences(name: str, source: str) -> list[str]:
    """What a module may not import, of what it does."""
    own = room(name)
    found = []
    for target in imported(ast.parse(source)):
        if own in WITHOUT_TORCH and target.split(".")[0] in ("torch", "triton"):
            found.append(f"{name} imports {target}")
        if not target.startswith("autoprec."):
            continue
        other = room(target.removeprefix("autoprec."))
        if other not in LEVEL:
            continue  # a name that autoprec itself exports
        apart = own != other and {own, other} in APART
        if apart or LEVEL[other] > LEVEL[own]:
            found.append(f"{name} imports {target}")
    return found


def test_every_module_has_a_level() -> None:
    assert {room(name) for name in MODULES} == set(LEVEL)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name: str) -> None:
    assert offences(name, MODULES[name].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("policy.choose", "from autoprec.probe import timing"),
        ("plan.plan", "import autoprec.report.formats.table"),
        ("budget", "def f():\n    from autoprec import profile"),
        ("kernels.cpu", "from autoprec.registry import kernels"),
        ("report.formats.table", "import torch.nn"),
        ("tune", "from autoprec.commands.console import tell"),
        ("transformers", "from autoprec.commands import console"),
        ("commands.tune", "def f():\n    from autoprec import cli"),
    ],
)
def test_an_import_that_points_up_is_found(name: str, source: str) -> None:
    assert len(offences(name, source)) == 1


HEAVY = ("torch", "triton", "pandas", "pydantic", "numpy", "matplotlib", "jinja2")


def loaded_by(code: str) -> set[str]:
    """Which heavy modules are loaded once some code has run."""
    report = f"import sys; print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    command = subprocess.run(
        [sys.executable, "-P", "-c", f"{code}\n{report}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(ast.literal_eval(command.stderr.splitlines()[-1]))


COMMAND = """
import sys
from autoprec.cli import main
sys.argv = ["autoprec", {}]
try:
    main()
except SystemExit:
    pass
"""


def test_help_and_the_nouns_load_nothing_heavy() -> None:
    nouns = "".join(f"import autoprec.{name}\n" for name in LEVELS[0])
    assert loaded_by(COMMAND.format("'--help'") + nouns) == set()


@pytest.mark.parametrize(
    "command", ["probe", "paths", "tune", "report", "explain", "verify", "bench", "doctor"]
)
def test_help_of_a_command_loads_no_torch_and_no_pandas(command: str) -> None:
    # for an option with a default Typer asks pydantic how to show it
    assert loaded_by(COMMAND.format(f"'{command}', '--help'")) <= {"pydantic"}


def test_a_report_of_a_profile_that_is_named_loads_no_torch() -> None:
    profile = next((ROOT / "profiles").glob("*.json"))
    assert "torch" not in loaded_by(COMMAND.format(f"'report', {str(profile)!r}"))


def test_reports_and_decisions_load_no_torch() -> None:
    names = [name for name in MODULES if room(name) in WITHOUT_TORCH]
    assert "torch" not in loaded_by("".join(f"import autoprec.{name}\n" for name in names))


def test_help_takes_less_than_0_4_s() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-P", "-m", "autoprec", "--help"], capture_output=True, check=True
        )
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.4  # the best of five: others use the machine too


def test_what_autoprec_exports_is_there_and_nothing_else_is() -> None:
    code = "import autoprec\nfor name in autoprec.__all__: getattr(autoprec, name)\n"
    assert "torch" in loaded_by(code)
    import autoprec

    assert set(autoprec.__all__) <= set(dir(autoprec))
    with pytest.raises(AttributeError, match="module 'autoprec' has no attribute 'tuna'"):
        autoprec.tuna  # noqa: B018
