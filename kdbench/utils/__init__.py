"""Files, leases, signals, random streams and devices.

Nothing here knows of distillation: no network, no method, no protocol. Imports only :mod:`kdbench.errors`.
"""
