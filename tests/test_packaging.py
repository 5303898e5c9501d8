"""What is installed, and what the README promises of installing it."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import autoprec

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
README = (ROOT / "README.md").read_text(encoding="utf-8")

USE = "pip install -c constraints.txt . && autoprec tune"
DEVELOP = "pip install -c constraints.txt -e '.[dev]' && python -P -m pytest"


@pytest.mark.parametrize("name", ["kernels", "profiles"])
def test_a_checkout_that_hides_the_package_says_how_to_start_python(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "autoprec").mkdir()
    shutil.copy(ROOT / "autoprec" / "__init__.py", tmp_path / "autoprec")

    def complaint() -> str:
        environment = {key: it for key, it in os.environ.items() if key != "PYTHONSAFEPATH"}
        command = [sys.executable, "-S", "-c", f"import autoprec.{name}"]  # no site: not installed
        ended = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        return ended.stderr.splitlines()[-1]

    lacks = f"ModuleNotFoundError: No module named 'autoprec.{name}'"
    assert complaint() == lacks
    (tmp_path / "pyproject.toml").touch()
    assert complaint() == (
        f"{lacks}: Python took autoprec from the checkout {tmp_path}, whose folder lacks it, and "
        "not the package installed. Try: python -P"
    )


def test_the_packages_listed_are_the_folders_there_are() -> None:
    folders = {ROOT / folder: name for name, folder in SETUPTOOLS["package-dir"].items()}
    found = {
        ".".join([name, *file.parent.relative_to(folder).parts])
        for folder, name in folders.items()
        for file in folder.rglob("__init__.py")
    }
    assert found == set(SETUPTOOLS["packages"])


def test_every_file_that_is_no_module_is_package_data() -> None:
    for name, folder in SETUPTOOLS["package-dir"].items():
        patterns = SETUPTOOLS["package-data"].get(name, [])
        kept = {file for pattern in patterns for file in (ROOT / folder).glob(pattern)}
        there = {
            file
            for file in (ROOT / folder).rglob("*")
            if file.is_file() and file.suffix not in (".py", ".pyc", ".md")
        }
        assert there <= kept, f"{name} would be installed without {there - kept}"


def test_the_version_is_the_package_s() -> None:
    assert SETUPTOOLS["dynamic"]["version"] == {"attr": "autoprec.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", autoprec.__version__)


def test_the_two_commands_stand_in_the_first_screen_each_on_a_line() -> None:
    first = README.splitlines()[:40]
    assert USE in first
    assert DEVELOP in first


def test_the_makefile_and_ci_use_those_commands() -> None:
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    install, test = DEVELOP.split(" && ")
    assert f"\t{install}\n" in make
    assert f"\t{test} --cov" in make
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert ci[-2:] == ["make dev", "make check"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


@pytest.mark.parametrize(
    "line",
    [
        *PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"]["dev"],
        *PROJECT["build-system"]["requires"],
    ],
)
def test_the_tested_versions_are_within_the_ranges(line: str) -> None:
    pins = {}
    for pin in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if pin and not pin.startswith("#"):
            name, version = pin.split("==")
            pins[canonicalize_name(name)] = version
    requirement = Requirement(line)
    assert pins[canonicalize_name(requirement.name)] in requirement.specifier
