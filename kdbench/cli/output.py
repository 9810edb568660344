"""Standard output and error of a command: what they cannot show is replaced, and what they cannot take is dropped."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import TextIO, final

from kdbench.utils.text import message_line, one_line

_PLAIN = {"±": "+-", "×": "x", "↑": "^", "↓": "v", "†": "+", "τ": "tau", "…": "...", "✓": "v", "–": "-"}
"""What stands for a character that an encoding lacks."""
_REPLACE = "kdbench.replace"


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """Replace the characters that an encoding lacks; see :func:`codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


codecs.register_error(_REPLACE, _replaced)


@final
class _Descriptor(io.FileIO):
    """Write to a file descriptor until that fails; what comes after is dropped, so that the work continues."""

    failure: OSError | None = None

    def write(self, data: object) -> int:
        if self.failure is None:
            try:
                return super().write(data)  # type: ignore[arg-type]
            except OSError as error:
                self.failure = error
        return len(memoryview(data).cast("B"))  # type: ignore[arg-type]


def with_lasting_streams(command: Callable[[], int]) -> int:
    """Run a command so that printing never raises, and return its exit code.

    A reader that wants no more, such as ``head``, is no failure. Where standard output cannot be written for another
    reason, such as a full disk, the command ends as it would, then one line says so and the code is 2.
    """
    _open_closed_descriptors()
    failures = []
    with contextlib.ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is getattr(sys, f"__{name}__"):  # not while a test captures it
                lasting, descriptor = _lasting(stream, 1 if name == "stdout" else 2)
                failures += [descriptor] if name == "stdout" else []
                setattr(sys, name, lasting)
                stack.callback(setattr, sys, name, stream)
                stack.callback(lasting.flush)
        code = command()
        sys.stdout.flush()
        for failure in (descriptor.failure for descriptor in failures):
            if failure and failure.errno != errno.EPIPE:
                sys.stderr.write(f"kdbench: cannot write to standard output: {failure.strerror}\n")
                code = code or 2
    return code


def _lasting(stream: TextIO | None, number: int) -> tuple[TextIO, _Descriptor]:
    """Return a stream in place of another, or of one that was closed, and its descriptor."""
    descriptor = _Descriptor(stream.fileno() if stream else number, "wb", closefd=False)
    lasting = io.TextIOWrapper(
        io.BufferedWriter(descriptor),
        encoding=stream.encoding if stream else "utf-8",
        errors=_REPLACE,
        line_buffering=number == 2 or descriptor.isatty(),
    )
    return lasting, descriptor


def _open_closed_descriptors() -> None:
    """Let descriptors 0 to 2 that were closed lead nowhere, so that no file of this process takes their place."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def write_utf8(text: str) -> None:
    """Write text for programs to standard output, in UTF-8 whatever the terminal's encoding is."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
    else:  # a text of Python's, without an encoding
        sys.stdout.write(text)


def write_error(text: str) -> None:
    """Write what went wrong to standard error, in one line."""
    sys.stderr.write(f"kdbench: {message_line(text)}\n")


def unexpected(error: Exception) -> str:
    """Describe in one line an error that no command expects, and keep its traceback in a file."""
    trace = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="kdbench-", suffix=".txt", delete=False, encoding="utf-8", errors="replace"
        ) as file:
            file.write(trace)
        where = f"the traceback is in {file.name}"
    except OSError as failure:
        where = f"its traceback could not be kept: {failure.strerror}"
    return f"unexpected {type(error).__name__}: {one_line(error)}; {where}"
