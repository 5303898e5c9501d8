"""The profile that a command takes where none is named."""

from pathlib import Path

from autoprec.commands.console import tell
from autoprec.plan.load import find
from autoprec.probe import device as devices


def own_profile(device: str = "auto") -> Path:
    """Where the profile of a device of this machine lies.

    Raises:
        InputError: There is none yet, or no such device.
        ProfileError: The file that AUTOPREC_PROFILE names cannot be read.
    """
    environment = devices.environment(devices.resolve(device))
    return find(environment, lambda sentence: tell(f"note: {sentence}"))[1]
