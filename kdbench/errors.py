"""What the command line turns into a message."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake of the user; the command line prints its text as one line and exits with 2.

    The text says what is wrong, where, and what to type instead.
    """
