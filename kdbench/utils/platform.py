"""Say where kdbench runs: on systems whose Python has locks of files, limits of resources and all signals."""

from __future__ import annotations

import importlib
import platform
import signal

from kdbench.errors import UserError


def check_platform() -> None:
    """Raise ``UserError`` on a system that is neither Linux nor macOS, such as Windows."""
    try:
        for module in ("fcntl", "resource"):
            importlib.import_module(module)
    except ImportError:
        complete = False
    else:
        complete = getattr(signal, "SIGUSR2", None) is not None
    if not complete:
        raise UserError(
            f"kdbench runs on Linux and macOS, not on {platform.system() or 'this system'}: on Windows, install it in "
            "the Windows Subsystem for Linux"
        )
