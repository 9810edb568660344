"""What the command line turns into one line."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake of the user; the command line prints its text as one line and exits with 2.

    The text says what is wrong, where, and what to type instead.
    """

    reason = "error"
    """What a failed cell's file gives as the kind of failure."""


class Interrupted(BaseException):
    """A signal came and the state is saved. Not an error, so no ``Exception``.

    Parameters
    ----------
    text
        What happened, and what to type to resume.
    signum
        The signal.
    """

    def __init__(self, text: str, signum: int) -> None:
        super().__init__(text)
        self.signum = signum
