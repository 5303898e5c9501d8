"""What ``autoprec probe`` does: look at the device and measure it, and print that."""

from autoprec.commands.console import say
from autoprec.probe import ceilings, fingerprint
from autoprec.probe import device as devices
from autoprec.report.probe import render


def run(device: str, format: str) -> None:
    """Probe a device, and print what came of it.

    Raises:
        InputError: There is no such device.
    """
    where = devices.resolve(device)
    state = devices.state(where)
    environment = devices.environment(where)
    modes, remarks = fingerprint.take(where)
    rates = ceilings.measure(where)
    say(render(environment, state, rates, format, fingerprint=modes, remarks=remarks))
