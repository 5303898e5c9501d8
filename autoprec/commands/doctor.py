"""What ``autoprec doctor`` does: look, and say what to do."""

import os
from pathlib import Path

from autoprec import profile as profiles
from autoprec.commands.console import say
from autoprec.errors import ProfileError
from autoprec.plan.load import VARIABLE
from autoprec.policy.fit import Match, compare
from autoprec.probe import device as devices
from autoprec.probe.doctor import Finding, State, look
from autoprec.report.doctor import document
from autoprec.report.formats import write
from autoprec.types import Environment


def run(device: str, format: str) -> int:
    """Look at everything, and print it.

    Returns:
        The exit code: 1 where there is a problem, else 0.

    Raises:
        InputError: There is no such device.
    """
    where = devices.resolve(device)
    findings = [*look(where), _profile(devices.environment(where))]
    say(write(document(findings), format))
    return int(any(it.state is State.PROBLEM for it in findings))


def _profile(environment: Environment) -> Finding:
    """Whether the profile of this machine can be read, and is of today's software."""
    named = os.environ.get(VARIABLE)
    path = Path(named) if named else profiles.default_path(environment.device)
    if not path.exists():
        if named:
            sentence = f"{VARIABLE}={named}: that file is not there"
            return Finding("profile", State.PROBLEM, sentence, f"unset {VARIABLE}")
        return Finding("profile", State.NOTE, f"there is none at {path} yet", "autoprec tune")
    try:
        fit = compare(profiles.read(path), environment)
    except ProfileError as error:
        return Finding("profile", State.PROBLEM, error.sentence.rstrip("."), error.hint)
    where = f"{path}, which {VARIABLE} names" if named else str(path)
    if fit.match is Match.EXACT:
        return Finding("profile", State.OK, where)
    said = " ".join(sentence.rstrip(".") for sentence in fit.sentences)
    if named and fit.match is Match.OTHER:
        return Finding("profile", State.PROBLEM, f"{where}: {said}", f"unset {VARIABLE}")
    return Finding("profile", State.NOTE, f"{where}: {said}", "autoprec tune --fresh")
