"""What ``autoprec paths`` does: list them."""

from autoprec.commands.console import say
from autoprec.probe import device as devices
from autoprec.probe.fingerprint import overview
from autoprec.report.paths import render


def run(device: str, format: str) -> None:
    """Print every path and kernel, and whether it runs on a device.

    Raises:
        InputError: There is no such device.
    """
    say(render(overview(devices.resolve(device)), format))
