"""The command line; what a command needs is imported when it is typed."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Run the command line; what goes wrong is one line on standard error, with exit code 2 for a user's mistake."""
    # Until there is something to save, Ctrl-C ends the process as the system does it, in the middle of an import too.
    # So what is imported before this line is little: Ctrl-C in it, or in Python's own start, is a traceback.
    handler = signal.getsignal(signal.SIGINT)
    if handler != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Threads that wait long by spinning make a busy machine many times slower; read when torch is first imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    from kdbench.cli.app import run
    from kdbench.cli.output import with_lasting_streams, write_error

    try:
        signal.signal(signal.SIGINT, handler)
        code = with_lasting_streams(run)
    except KeyboardInterrupt:  # before the command's own handling, or after it
        write_error("stopped")
        code = 128 + signal.SIGINT
    sys.exit(code)
