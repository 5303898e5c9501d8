"""What all tests share: where Triton kernels run, and folders of the user that are not the user's.

Triton kernels run in the repaired interpreter, on CPU tensors, unless there is a GPU and the
tests marked ``cuda`` are asked for (``pytest -m cuda``): then they are compiled.

Folders mirror the package's. What several tests share are modules in support/:

    made_up                              records: workloads, measurements, profiles
    exact exact_requests fake_kernels    kernels that are exact, or broken in one way
    gpu interpreted                      plans on the GPU that is here, and in the interpreter
    interpreter interpreter_speed        Triton's interpreter, repaired and made quicker
    kernel_cases request_cases pairwise  cases of kernels: tensors, requests, and which to take
    bounds tolerance                     how far off a kernel may be, and what a call means
    measuring command_line               the probe on a CPU, and whole commands
    flashinfer_cases flashinfer_small    calls of FlashInfer's names, many and one at a time
    flashinfer_oracle                    what they should give
    plan_caches                          caches of a plan, and tokens for them
    reported profile_files               a profile to report, and files that are spoilt
    tiny_models transformers_plans       models of transformers, and plans for them
    real_models                          trained models, their tensors and what they are off
    soak soak_plain soak_caches leaks    calls by the thousand, and what they leave behind
    launch_storm                         launches by the thousand, which must all end
"""

import os
from pathlib import Path

import hypothesis
import pytest

# How long one example takes says how busy the machine is, and nothing else.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

_USER_FOLDERS = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def pytest_configure(config: pytest.Config) -> None:
    """Choose between interpreter and compiler, which Triton's decorators do when they run."""
    wanted = config.option.markexpr
    if "cuda" in wanted and "not cuda" not in wanted and _has_gpu():
        return
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        import interpreter
    except ImportError:  # no Triton here
        return
    interpreter.repair()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked ``cuda`` where kernels are interpreted."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        return
    marked = [item for item in items if "cuda" in item.keywords]
    if not marked:
        return
    reason = "run by pytest -m cuda" if _has_gpu() else "needs an NVIDIA GPU"
    for item in marked:
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _user_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test from the user's profiles and caches."""
    monkeypatch.delenv("AUTOPREC_PROFILE", raising=False)
    for variable in _USER_FOLDERS:
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    if os.environ.get("TRITON_INTERPRET") != "1":  # torch caches what it compiles for a GPU there
        (tmp_path / "xdg_cache_home").mkdir()


@pytest.fixture(autouse=True)
def _idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on how busy the machine is."""
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)
