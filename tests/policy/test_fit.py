"""The fit: whether what one machine measured speaks for another."""

from typing import Any

import pytest
from made_up import device, environment, profile

from autoprec.policy import fit
from autoprec.policy.fit import Fit, Match, compare
from autoprec.probe.device import kernels_digest

PROFILE = profile()
CPU = {"kind": "cpu", "name": "Xeon", "capability": "x86_64", "memory_gib": 16.0, "units": 8}


def test_the_same_machine() -> None:
    assert compare(PROFILE, environment()) == Fit(Match.EXACT, ())


def test_another_python_or_a_little_memory_more_is_the_same_machine() -> None:
    here = environment(python="3.13.1", device=device(memory_gib=79.6))
    assert compare(PROFILE, here).match is Match.EXACT


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"torch": "2.14.0"},
            "the profile was measured with torch 2.13.0+cu130, and here it runs with torch 2.14.0.",
        ),
        (
            {"triton": None},
            "the profile was measured with triton 3.7.1, and here it runs without triton.",
        ),
        (
            {"cuda": "13.2"},
            "the profile was measured with CUDA 13.0, and here it runs with CUDA 13.2.",
        ),
        ({"kernels": "fedcba"}, "autoprec's kernels changed since the profile was measured."),
        (
            {"variables": {"NVIDIA_TF32_OVERRIDE": "0"}},
            "the profile was measured with NVIDIA_TF32_OVERRIDE unset, and here it is set to '0'.",
        ),
    ],
)
def test_other_software_makes_a_profile_stale(changes: dict[str, Any], sentence: str) -> None:
    assert compare(PROFILE, environment(**changes)) == Fit(Match.STALE, (sentence,))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"driver": "590.1"},
            "the profile was measured with driver 580.82, and here it runs with driver 590.1.",
        ),
        (
            {"torch": "2.13.2+cu130"},
            "the profile was measured with torch 2.13.0+cu130, "
            "and here it runs with torch 2.13.2+cu130.",
        ),
        (
            {"triton": "3.7.0"},
            "the profile was measured with triton 3.7.1, and here it runs with triton 3.7.0.",
        ),
    ],
)
def test_a_patch_or_a_driver_is_compatible(changes: dict[str, Any], sentence: str) -> None:
    assert compare(PROFILE, environment(**changes)) == Fit(Match.COMPATIBLE, (sentence,))


def test_kernels_that_are_timed_as_before_are_compatible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "_SAME_CODE", {"fedcba": (PROFILE.environment.kernels,)})
    assert compare(PROFILE, environment(kernels="fedcba")) == Fit(
        Match.COMPATIBLE,
        (
            "autoprec's kernels changed since the profile was measured, but not the code that was "
            "timed.",
        ),
    )
    assert compare(PROFILE, environment(kernels="abcdef")).match is Match.STALE


def test_what_is_said_of_kernels_sources_is_of_these() -> None:
    """Where it fails the kernels have changed again: compare their code anew, or drop the entry."""
    assert set(fit._SAME_CODE) <= {kernels_digest()}


def test_the_largest_change_decides() -> None:
    assert compare(PROFILE, environment(driver="590.1", kernels="f")).match is Match.STALE


def test_a_driver_that_is_gone_makes_it_stale() -> None:
    assert compare(PROFILE, environment(driver=None)).match is Match.STALE


def test_every_change_is_named() -> None:
    fit = compare(PROFILE, environment(torch="2.14.0", kernels="fedcba"))
    assert (fit.match, len(fit.sentences)) == (Match.STALE, 2)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"name": "NVIDIA A100-SXM4-40GB", "capability": "8.0"},
            "the profile is for NVIDIA H100 80GB HBM3 (9.0), "
            "and this is NVIDIA A100-SXM4-40GB (8.0).",
        ),
        (
            CPU,
            "the profile is for NVIDIA H100 80GB HBM3 (9.0), and this is Xeon (x86_64).",
        ),
        (
            {"units": 114},
            "the profile is for NVIDIA H100 80GB HBM3 with 132 units, "
            "and this is NVIDIA H100 80GB HBM3 with 114 units.",
        ),
        (
            {"memory_gib": 39.5},
            "the profile is for NVIDIA H100 80GB HBM3 with 79 GiB, "
            "and this is NVIDIA H100 80GB HBM3 with 40 GiB.",
        ),
    ],
)
def test_another_device_is_another_machine(changes: dict[str, Any], sentence: str) -> None:
    here = environment(device=device(**changes), torch="2.14.0")
    assert compare(PROFILE, here) == Fit(Match.OTHER, (sentence,))


def test_a_cpu_with_other_cores_at_hand_is_stale_and_its_memory_does_not_matter() -> None:
    made = profile(environment=environment(device=device(**CPU)))
    assert compare(made, environment(device=device(**CPU | {"memory_gib": 64.0}))).sentences == ()
    assert compare(made, environment(device=device(**CPU | {"units": 2}))) == Fit(
        Match.STALE, ("the profile was measured on 8 cores, and 2 are at hand.",)
    )
