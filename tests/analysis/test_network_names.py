"""Networks of users that have one name: other versions and other code are other columns."""

from __future__ import annotations

from typing import Any

from fake_records import fake_record

from kdbench.analysis.records import Records, as_frame
from kdbench.analysis.splitting import split
from kdbench.experiment.identity import identity_hash, identity_text


def own(seed: int, version: int, code: str, method: str = "kd", **changes: Any) -> dict[str, Any]:
    """A record of a student that is the user's."""
    record = fake_record(method, seed, 70.0 + seed, student="mine", **changes)
    record["config"]["student_version"] = version
    record["cell"] = identity_hash(identity_text(record["config"]))
    return record | {"student_source": f"file mine.py sha256:{code}"}


def pairs(*records: dict[str, Any]) -> list[str]:
    (comparison,) = split(Records(as_frame(records), [], []))
    return [pair.name for pair in comparison.pairs]


def test_one_network_is_one_column() -> None:
    assert pairs(own(1, 1, "aa"), own(2, 1, "aa"), own(1, 1, "aa", "ce", teacher=None)) == ["resnet20 > mine"]


def test_other_versions_and_other_code_are_other_columns() -> None:
    assert pairs(own(1, 1, "aa"), own(2, 2, "aa")) == [
        "resnet20 > mine (version 1)",
        "resnet20 > mine (version 2)",
    ]
    assert pairs(own(1, 1, "aa"), own(2, 1, "bb"), fake_record("kd", 1, 70.0)) == [
        "resnet20 > mine (code aa)",
        "resnet20 > mine (code bb)",
        "resnet20 > resnet8",
    ]


def test_a_student_without_a_teacher_stays_beside_its_own_code() -> None:
    records = [own(1, 1, "aa"), own(1, 2, "bb"), own(1, 2, "bb", "ce", teacher=None)]
    (comparison,) = split(Records(as_frame(records), [], []))
    filled = {(row.method, pair.student) for (row, pair), result in comparison.results.items() if len(result.frame)}
    assert filled == {("kd", "mine (version 1)"), ("kd", "mine (version 2)"), ("ce", "mine (version 2)")}


def test_other_code_of_a_teacher_is_another_column() -> None:
    records = [fake_record("kd", seed, 70.0, teacher="mine") for seed in (1, 2)]
    for record, code in zip(records, ("aa", "bb"), strict=True):
        record["teacher"]["source"] = f"file mine.py sha256:{code}"
    assert pairs(*records) == ["mine (code aa) > resnet8", "mine (code bb) > resnet8"]
