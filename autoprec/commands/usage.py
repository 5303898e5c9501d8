"""Complaints of Typer about a command line, in the words of all other messages."""

import re
from typing import Any

# What kind of number the value of an option should have been, by pydantic's name of the error.
_NUMBERS = {"float_parsing": "a number", "int_parsing": "a whole number"}


def sentence(error: Any) -> str:
    """One sentence on a command line that Typer cannot read.

    Args:
        error: Typer's; where pydantic refused the value of an option, it has that as its cause.
    """
    said: str = error.format_message()
    option = re.match(r"Invalid value for '([^']+)': ", said)
    refusals = getattr(error.__cause__, "errors", None)
    if option and (must := _must(said.removeprefix(option[0]), refusals() if refusals else [])):
        return f"{option[1]} must be {must}."
    return said if said.endswith((".", "?")) else f"{said}."


def _must(complaint: str, refusals: list[dict[str, Any]]) -> str:
    """What the value must be, and what it is; "" where the complaint is another."""
    choice = re.fullmatch(r"(?:Value error, )?(.*) is not one of ('.*')\.?", complaint)
    if choice:
        names = choice[2].replace("'", "")
        return f"one of {names}, got {choice[1]}"
    if not refusals:
        return ""
    kind, value = refusals[0]["type"], refusals[0]["input"]
    if kind == "greater_than_equal":
        return f"at least {refusals[0]['ctx']['ge']}, got {value}"
    return f"{_NUMBERS[kind]}, got {value!r}" if kind in _NUMBERS else ""
