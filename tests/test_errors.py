"""Errors: what they say, what they are, and how the command line exits on them."""

import pytest

from autoprec import errors


def test_sentence_and_hint_are_one_message() -> None:
    error = errors.InputError("batch must be at least 1, got 0.", "--batch 1")
    assert str(error) == "batch must be at least 1, got 0. Try: --batch 1"
    assert (error.sentence, error.hint) == ("batch must be at least 1, got 0.", "--batch 1")


def test_without_a_hint_the_sentence_stands_alone() -> None:
    assert str(errors.InputError("batch must be at least 1, got 0.")) == (
        "batch must be at least 1, got 0."
    )


@pytest.mark.parametrize(
    ("kind", "exit_code", "also"),
    [
        (errors.InputError, 2, ValueError),
        (errors.ProfileError, 2, errors.InputError),
        (errors.UnsupportedError, 2, NotImplementedError),
        (errors.BudgetError, 1, errors.AutoprecError),
        (errors.MachineError, 3, errors.AutoprecError),
    ],
)
def test_exit_codes_and_what_else_catches_them(
    kind: type[errors.AutoprecError], exit_code: int, also: type[Exception]
) -> None:
    assert kind.exit_code == exit_code
    assert issubclass(kind, errors.AutoprecError)
    assert issubclass(kind, also)
