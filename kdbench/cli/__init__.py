"""The command line; what a command needs is imported when it is typed."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Run the command line; what goes wrong is one line on standard error, with exit code 2 for a user's mistake."""
    # Threads that wait long by spinning make a busy machine many times slower; read when torch is first imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # Until there is something to save, Ctrl-C ends the process as the system does it, in the middle of an import too.
    handler = signal.getsignal(signal.SIGINT)
    if handler != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from kdbench.cli.app import run
    from kdbench.cli.output import with_lasting_streams

    signal.signal(signal.SIGINT, handler)
    sys.exit(with_lasting_streams(run))
