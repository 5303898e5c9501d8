"""Every error autoprec raises on purpose: one sentence, one thing to try, one exit code.

AutoprecError
├── InputError        a value, shape, option or file that cannot be used       exit 2
│   └── ProfileError  a profile that cannot be read or written                 exit 2
├── UnsupportedError  nothing here can do what was asked                       exit 2
├── BudgetError       no precision path keeps to the budget                    exit 1
├── CheckError        a check that was asked for failed                        exit 1
└── MachineError      the profile is for another machine, or stale             exit 3
"""


class AutoprecError(Exception):
    """An expected error.

    Args:
        sentence: What is wrong, with the names and values concerned; ends in a full stop.
        hint: What to do next, in the imperative, or "" where there is nothing to add.
    """

    exit_code = 2

    def __init__(self, sentence: str, hint: str = "") -> None:
        """Keep both, so that they can be shown apart."""
        super().__init__(sentence, hint)
        self.sentence = sentence
        self.hint = hint

    def __str__(self) -> str:
        """The sentence, followed by the hint where there is one."""
        return f"{self.sentence} Try: {self.hint}" if self.hint else self.sentence


class InputError(AutoprecError, ValueError):
    """A value, shape, option or file that cannot be used."""


class ProfileError(InputError):
    """A profile that cannot be read or written."""


class UnsupportedError(AutoprecError, NotImplementedError):
    """No kernel does what was asked."""


class BudgetError(AutoprecError):
    """No precision path keeps to the budget."""

    exit_code = 1


class CheckError(AutoprecError):
    """A check that was asked for failed."""

    exit_code = 1


class MachineError(AutoprecError):
    """The profile was made on another machine, or the machine changed since."""

    exit_code = 3


class AutoprecWarning(UserWarning):
    """Something was done, but not quite as asked: said once, in one sentence."""
