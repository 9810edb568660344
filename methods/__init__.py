"""One method = one file + one recipe file. Imported as ``kdbench.methods``."""

if __name__ != "kdbench.methods":
    raise ImportError(
        f"the folder methods/ is the package kdbench.methods, not {__name__!r}: "
        "run 'pip install -e .' in the checkout, then 'import kdbench.methods'"
    )
