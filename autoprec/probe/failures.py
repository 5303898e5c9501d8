"""Other people's exceptions in one line."""


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
