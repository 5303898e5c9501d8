"""The commands and their options are what there is."""

import importlib.util

import pytest
import torch
from command_line import Cli

from autoprec.commands import options
from autoprec.commands.app import app
from autoprec.probe.effort import EFFORTS
from autoprec.report.figures.figure import KINDS
from autoprec.report.formats import FORMATS
from autoprec.tune import default_time_limit_s

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_module(command: str) -> None:
    assert importlib.util.find_spec(f"autoprec.commands.{command}") is not None


def test_formats_pictures_and_efforts_are_those_that_there_are() -> None:
    assert list(options.Format) == list(FORMATS)
    assert list(options.ReportFormat) == [*FORMATS, "png", "svg"]
    assert list(options.Plot) == list(KINDS)
    assert list(options.Effort) == list(EFFORTS)


def test_the_time_limits_are_those_that_help_names(run: Cli) -> None:
    cpu, gpu = (default_time_limit_s(torch.device(name)) for name in ("cpu", "cuda:0"))
    text = " ".join(run("tune", "--help").out.replace("│", " ").split())
    assert f"When to stop and save. Default: {cpu:g} on a CPU, {gpu:g} on a GPU." in text


def test_help_of_verify_promises_no_saving(run: Cli) -> None:
    cpu, gpu = (default_time_limit_s(torch.device(name)) for name in ("cpu", "cuda:0"))
    text = " ".join(run("verify", "--help").out.replace("│", " ").split())
    assert (
        f"what was not checked by then fails. Default: {cpu:g} on a CPU, {gpu:g} on a GPU" in text
    )
    assert "save" not in text


@pytest.mark.parametrize("command", ["probe", "paths", "doctor", "tune", "verify", "bench"])
def test_a_device_is_not_said_to_be_measured_by_what_measures_nothing(
    run: Cli, command: str
) -> None:
    text = " ".join(run(command, "--help").out.replace("│", " ").split())
    assert "Which device; auto takes a GPU where there is one." in text
