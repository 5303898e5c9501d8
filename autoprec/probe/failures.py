"""Other people's exceptions: in one line, and whether memory was what there was too little of."""

import torch

# As PyTorch says it of the host, CUDA and HIP of a device (Triton hands that on), and cuBLAS.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")


def first_line(error: BaseException) -> str:
    """The line of an error's message that says what happened, or the error's name.

    Triton's CompilationError quotes the source first and comes to the point in its last line.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if type(error).__name__ == "CompilationError" else lines[0]


def described(error: BaseException) -> str:
    """The error's name and what happened."""
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory, of a device or of the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(it in str(error) for it in _NO_MEMORY)
