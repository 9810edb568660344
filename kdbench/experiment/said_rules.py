"""Which file says each rule of a protocol: its own, one on which it is based, or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdbench.experiment.protocol import protocol_files, values_of
from kdbench.experiment.rules import PLACES
from kdbench.utils.names import find_name
from kdbench.utils.reading import read_toml


def rules_said_by(name: str) -> dict[str, str]:
    """Return which file says each rule of a protocol, by the rules' flat keys; ``default`` where none does."""
    files = protocol_files()
    merged = values_of(name, files)
    chain: list[tuple[str, dict[str, Any]]] = []
    base: str | None = name
    while base is not None:
        values = read_toml(files[base])
        chain.append((files[base].name, values))
        base = find_name("protocol", values["base"], files, "") if "base" in values else None

    def says(values: Mapping[str, Any], group: str, key: str) -> bool:
        return key in (values.get(group, {}) if group else values)

    return {
        flat: next((file for file, values in chain if says(merged, *place) and says(values, *place)), "default")
        for flat, place in PLACES.items()
    }
