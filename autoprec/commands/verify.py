"""What ``autoprec verify`` does around verifying: what it is asked, what it says, how it ends."""

import time
from pathlib import Path
from typing import TextIO, cast

from rich.console import Console

from autoprec import profile as profiles
from autoprec import tune as tuning
from autoprec import verify as verifying
from autoprec.budget import Budget
from autoprec.commands import checks
from autoprec.commands.console import Stderr, raise_on_interrupt, say
from autoprec.commands.own_profile import own_profile
from autoprec.commands.progress import Display
from autoprec.draws import percent_sure
from autoprec.probe import device as devices
from autoprec.report import facts as of_profile
from autoprec.report import formats, verified
from autoprec.report.document import Document
from autoprec.types import Profile


def run(
    file: Path | None,
    *,
    device: str,
    seed: int | None,
    time_limit_s: float | None,
    format: str,
    started: float,
) -> int:
    """Verify a profile and print what came of it.

    Args:
        file: The profile; None for the device's.
        device: As typed.
        seed: Of the draws; None for one that nobody has seen.
        time_limit_s: When to stop, from the start of the process; None for the device's default.
        format: Of the result.
        started: When the process began, on ``time.monotonic``'s clock.

    Returns:
        The exit code: 0 where the profile holds, else 1.

    Raises:
        AutoprecError: It cannot be read, is stale, or is another machine's.
    """
    checks.time_limit(time_limit_s)
    file = file or own_profile(device)
    profile = profiles.read(file)
    place = devices.resolve(device)
    limit_s = time_limit_s or tuning.default_time_limit_s(place)
    console = Console(file=cast(TextIO, Stderr()))
    raise_on_interrupt()
    with Display(
        Budget.parse(profile.budget),
        started + limit_s,
        console,
        allow_baselines=True,
        confidence=profile.confidence,
    ) as shown:
        found = verifying.verify(
            profile,
            device=place,
            seed=seed,
            time_limit_s=started + limit_s - time.monotonic(),
            observe=shown,
        )
    say(formats.write(_document(profile, str(file), found), format))
    return 0 if found.holds else 1


def _document(profile: Profile, label: str, found: verifying.Verified) -> Document:
    return verified.document(
        found.checks,
        facts=[
            ("profile", label),
            ("device", of_profile.device(profile.environment.device)),
            (
                "budget",
                f"{profile.budget} on 95 % of draws, {percent_sure(profile.confidence)} % sure",
            ),
            ("fit", " ".join((found.fit.match, *found.fit.sentences))),
            ("seed", str(found.seed)),
        ],
        notes=[
            f"worst of budget: the draw nearest to it; none may be over {verifying.FAR_OVER:g} "
            f"times, and {verifying.ALLOWED_OVER:.0%} of all draws over it",
            *(
                f"the family {name} was not drawn: it is not among this autoprec's"
                for name in found.unknown
            ),
        ],
        holds=found.holds,
    )
