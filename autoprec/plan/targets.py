"""The devices that a plan's tensors lie on."""

import torch

from autoprec.errors import InputError, MachineError
from autoprec.kernels.interface import Target
from autoprec.policy.fit import Match, compare
from autoprec.probe import device as devices
from autoprec.types import Profile


class Targets:
    """What kernels must know of each device. Threads may share it.

    Args:
        profile: What was measured.
        device: The device that the plan is for; tensors may lie on others that are the same.
    """

    def __init__(self, profile: Profile, device: torch.device) -> None:
        """Have asked none yet."""
        self._profile = profile
        self._device = device
        self._targets: dict[torch.device, Target] = {}

    def __call__(self, name: str, device: torch.device) -> Target:
        """What kernels must know of a device, asked once.

        Args:
            name: Of the tensor that lies there.

        Raises:
            InputError: The device is of another kind than the plan's.
            MachineError: It is another model.
        """
        target = self._targets.get(device)
        if target is None:
            if device.type != self._device.type:
                raise InputError(
                    f"{name} is on {device}, and this plan is for {self._device}.",
                    f"tensors on {self._device}, or load_plan for another device",
                )
            if device != self._device:
                fit = compare(self._profile, devices.environment(device))
                if fit.match is Match.OTHER:
                    raise MachineError(
                        f"{name} is on {device}, and this plan is for {self._device}: "
                        f"{' '.join(fit.sentences)}",
                        f'load_plan(device="{device}")',
                    )
            target = self._targets[device] = devices.target(device)
        return target
