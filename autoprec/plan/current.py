"""Where work is queued."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def current(tensor: Tensor) -> AbstractContextManager[object]:
    """Make the device of a tensor the current one, where it is not."""
    if tensor.is_cuda and tensor.get_device() != torch.cuda.current_device():
        return torch.cuda.device(tensor.device)
    return nullcontext()
