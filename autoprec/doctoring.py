"""What ``autoprec doctor`` does: look, and say what to do."""

from autoprec import profile as profiles
from autoprec.console import say
from autoprec.errors import ProfileError
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
    """Whether there is a profile of this machine, and whether it is of today's software."""
    path = profiles.default_path(environment.device)
    if not path.exists():
        return Finding("profile", State.NOTE, f"there is none at {path} yet", "autoprec tune")
    try:
        fit = compare(profiles.read(path), environment)
    except ProfileError as error:
        return Finding("profile", State.PROBLEM, error.sentence.rstrip("."), error.hint)
    if fit.match is Match.EXACT:
        return Finding("profile", State.OK, str(path))
    said = " ".join(sentence.rstrip(".") for sentence in fit.sentences)
    return Finding("profile", State.NOTE, f"{path}: {said}", "autoprec tune --fresh")
