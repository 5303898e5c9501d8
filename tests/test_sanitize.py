"""The script that runs kernels under compute-sanitizer, by a tool that stands for it."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
from ci_scripts import load

CLEAN = {"memcheck": "ERROR SUMMARY: 0 errors", "racecheck": "RACECHECK SUMMARY: 0 hazards"}

# As the tool does: it runs the program, which here says at once that it has, and counts.
TOOL = """#!{python}
import os, sys
assert os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] == "1"
words = sys.argv[1:]
tool, family = words[words.index("--tool") + 1], words[-1]
assert words[words.index("--error-exitcode") + 1] == "86"
finds = family in {finds}
print(family, "has run")
print(f"========= {{dict({clean})[tool].replace('0', '2' if finds else '0')}}")
sys.exit(86 if finds else 0)
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load("sanitize_kernels")
    monkeypatch.setattr(module, "architecture", lambda: "sm_90")
    return module


def stand_in(path: Path, finds: tuple[str, ...]) -> str:
    """A tool that finds something in these families."""
    text = TOOL.format(python=sys.executable, finds=finds, clean=CLEAN)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("family", "tool", "code", "text", "wrong"),
    [
        ("decode", None, 0, "decode has run", ""),
        ("decode", None, 1, "AssertionError", "it ended with 1"),
        ("decode", "memcheck", 0, f"decode has run\n{CLEAN['memcheck']}", ""),
        ("decode", "racecheck", 0, f"decode has run\n{CLEAN['racecheck']}", ""),
        ("decode", "memcheck", 86, "", "something was found"),
        ("decode", "racecheck", 0, "decode has run\n RACECHECK SUMMARY: 3 hazards (0 errors)",
         "something was found"),
        ("decode", "memcheck", 0, "ERROR SUMMARY: 0 errors", "it ended before all had run"),
        ("decode", "memcheck", 0, "decode has run", "the tool has not counted"),
        ("decode", "memcheck", 255, "no driver", "it ended with 255"),
        ("decode", "memcheck", None, "", "it did not end within 180 s"),
        ("beyond", "memcheck", 86, "", ""),
        ("beyond", "memcheck", 0, "beyond has run\n ERROR SUMMARY: 0 errors",
         "the planted error was not found: it ended with 0"),
        ("race", "racecheck", None, "", "it did not end within 180 s"),
    ],
)  # fmt: skip
def test_how_a_task_ended(
    script: ModuleType, family: str, tool: str | None, code: int | None, text: str, wrong: str
) -> None:
    assert script.problem(script.Task(family, tool), code, text) == wrong


HAZARD = """========= Error: Race reported between Read access at _forward+0x110 in {file}:{one}
=========     and Write access at _forward+0x10070 in {file}:{two} [32 hazards]
=========     and Write access at _forward+0x13e00 in {file}:{one} [49 hazards]
========= RACECHECK SUMMARY: {n} hazards displayed ({n} errors, 0 warnings)
hopper has run
"""


def test_tritons_own_hand_over_is_passed_over_and_nothing_else(script: ModuleType) -> None:
    lines = script._HANDS_OVER.read_text().splitlines()
    (jit,) = (n for n, line in enumerate(lines, 1) if line.startswith("@gluon.jit"))
    starts = [n for n, line in enumerate(lines, 1) if "gl.warp_specialize(" in line]
    barrier = next(n for n, line in enumerate(lines, 1) if "mbarrier.init(" in line)
    task = script.Task("hopper", "racecheck")

    def problem(one: int, two: int, n: int = 1, file: str = "program.py") -> object:
        return script.problem(task, 86, HAZARD.format(file=file, one=one, two=two, n=n))

    assert [problem(jit, start) for start in starts] == [""] * 3
    assert problem(jit, barrier) == problem(barrier, jit) == FOUND
    assert problem(jit, jit, n=2) == FOUND
    assert problem(jit, jit, file="producer.py") == FOUND


FOUND = "something was found"


@pytest.mark.parametrize(
    ("finds", "wrong"),
    [
        (("beyond", "race"), {}),
        (("beyond", "race", "append"), {"memcheck append": FOUND, "racecheck append": FOUND}),
        (("race",), {"memcheck beyond": "the planted error was not found: it ended with 0"}),
    ],
)
def test_all_families_run_under_both_tools(
    script: ModuleType, finds: tuple[str, ...], wrong: dict[str, str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("COMPUTE_SANITIZER", stand_in(tmp_path / "tool", finds))
    work = tmp_path / "work.py"  # in place of kernels, for which there is no GPU
    work.write_text("import sys; print(sys.argv[1], 'has run')", encoding="utf-8")
    monkeypatch.setattr(script, "_WORK", work)
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == bool(wrong)
    families = ("prefill", "decode", "hopper", "append", "guards")
    tasks = [f"results {family}" for family in families]
    tasks += [f"memcheck {family}" for family in (*families, "beyond")]
    tasks += [f"racecheck {family}" for family in (*families, "race")]
    told = [line for line in capsys.readouterr().out.splitlines() if line[:24].strip() in tasks]
    assert told == [f"{task:24} {wrong.get(task, 'ok')}" for task in tasks]


def test_where_there_is_nothing_to_look_with(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "compute_sanitizer", lambda: None)
    script.main()
    monkeypatch.setattr(script, "architecture", lambda: None)
    script.main()
    assert capsys.readouterr().out == (
        "skipped: compute-sanitizer is not found; it comes with CUDA, or by pip install "
        "nvidia-cuda-sanitizer-api\n"
        "skipped: there is no NVIDIA GPU here\n"
    )


def test_what_hangs_is_ended(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    work = tmp_path / "work.py"
    work.write_text("import time; print('begun', flush=True); time.sleep(60)", encoding="utf-8")
    monkeypatch.setattr(script, "_WORK", work)
    monkeypatch.setattr(script, "TIMEOUT_S", 3.0)
    told = script.run(script.Task("decode"), "", 0, str(tmp_path))
    assert told == ("it did not end within 3 s", "begun\n")


@pytest.mark.parametrize("family", ["prefill", "decode", "append", "guards"])
def test_families_are_right_on_a_cpu(family: str) -> None:
    pytest.importorskip("triton")
    module = load("kernel_families")
    assert set(module.FAMILIES) == set(load("sanitize_kernels").FAMILIES)
    module.FAMILIES[family]("cpu", checked=True)
