"""The searches of a folder of runs as files of a published one."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kdbench.analysis.publishing.folder import RECORDS
from kdbench.analysis.records import folders_below
from kdbench.errors import UserError
from kdbench.search.files import FOLDER, STUDY
from kdbench.search.written import CHOICE, WrittenStudy, joined, study_of
from kdbench.utils.names import safe_name
from kdbench.utils.reading import Missing, Unreadable, parse_json, read_bytes

_STUDY_FILE = re.compile(rf"({RECORDS}/[^/]+/{FOLDER}/[^/]+)/([^/]+)")


def search_files(runs: Path, left_out: list[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the place and the files of each search below a folder; ``left_out`` gets a line for each damaged one."""
    for text, names in folders_below(runs, []):
        folder = Path(text)
        if STUDY not in names:
            continue
        try:
            contents = {
                name: read_bytes(folder / name) for name in sorted(names) if name == STUDY or CHOICE.fullmatch(name)
            }
            study = _study(folder, contents)
        except Missing:
            continue  # deleted meanwhile
        except Unreadable as error:
            left_out.append(f"the search in {folder} is left out: it {error}")
            continue
        yield f"{RECORDS}/{safe_name(str(study.protocol['name']))}/{FOLDER}/{safe_name(folder.name)}", contents


def add_searches(
    files: dict[str, bytes], searches: Iterable[tuple[str, Mapping[str, bytes]]], left_out: list[str]
) -> None:
    """Add searches to the files of a published folder; what these have of other trials and pairs stays.

    Choices among equally many trials replace those that are there as a whole, unless they are fewer.

    Raises
    ------
    UserError
        A search that is published is damaged.
    """
    published = {study.folder.as_posix() for study in studies_in(files)}
    for place, contents in searches:
        path = f"{place}/{STUDY}"
        text = contents[STUDY]
        if place in published:
            earlier = _values(files[path])
            both = joined(earlier, _values(text))
            if both is None:
                left_out.append(f"the search {place} is left out: another one of this name is published")
                continue
            text = files[path] if both == earlier else (json.dumps(both, indent=2) + "\n").encode()
        names = {name.rpartition("/")[2] for name in files if name.startswith(f"{place}/")}
        more = {_number(name) for name in names - contents.keys()}
        files |= {f"{place}/{name}": content for name, content in contents.items() if _number(name) not in more}
        files[path] = text


def _number(name: str) -> str:
    """Return the number of trials in the name of a choice."""
    return name.partition("-")[0]


def studies_in(files: Mapping[str, bytes]) -> list[WrittenStudy]:
    """Return the searches among the files of a published folder.

    Raises
    ------
    UserError
        One is damaged.
    """
    places: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
    for name, content in sorted(files.items()):
        if match := _STUDY_FILE.fullmatch(name):
            places[match[1]][match[2]] = content
    try:
        return [_study(Path(place), contents) for place, contents in places.items() if STUDY in contents]
    except Unreadable as error:
        raise UserError(f"a search that is published {error}") from None


def _study(folder: Path, contents: Mapping[str, bytes]) -> WrittenStudy:
    values = {name: _values(content) for name, content in contents.items()}
    return study_of(folder, values.pop(STUDY), values)


def _values(content: bytes) -> dict[str, Any]:
    try:
        values = parse_json(content.decode())
    except UnicodeDecodeError:
        raise Unreadable("is damaged: it is no text") from None
    if not isinstance(values, dict):
        raise Unreadable("is damaged: it is not a JSON object")
    return values
