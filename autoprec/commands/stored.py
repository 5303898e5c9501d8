"""A saved profile, as it is or chosen again for another budget, for what measures nothing."""

from dataclasses import replace
from pathlib import Path

from autoprec.budget import Budget
from autoprec.policy.choose import choose_again
from autoprec.profile import read
from autoprec.types import Profile


def stored(file: Path, budget: Budget | None) -> Profile:
    """The profile of a file.

    Args:
        file: Where it is.
        budget: What to choose again for among what was measured, as ``load_plan`` does; its last
            remark says so. None: the choices saved.

    Raises:
        InputError: It cannot be read.
    """
    profile = read(file)
    if budget is None:
        return profile
    remark = (
        f"chosen again for {budget} among what was measured for {Budget.parse(profile.budget)}; "
        "nothing was measured anew."
    )
    return replace(choose_again(profile, budget), remarks=[*profile.remarks, remark])
