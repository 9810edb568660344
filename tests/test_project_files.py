"""What forges and citation managers read: it is valid, and agrees with the project."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = ROOT / ".github" / "workflows"
FORMS = ROOT / ".github" / "ISSUE_TEMPLATE"
pytestmark = pytest.mark.checkout


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.yml"))


def test_the_citation_and_the_changelog_are_of_this_version() -> None:
    citation, version = read(ROOT / "CITATION.cff"), project()["version"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys(), "required by the format"
    assert (str(citation["version"]), citation["license"]) == (version, project()["license"])
    released = re.findall(
        r"^## \[(\d.*?)\] - (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert released[0] == (version, str(citation["date-released"]))
    assert released == sorted(released, reverse=True)


def test_workflows_call_parts_that_exist() -> None:
    parts = set(re.findall(r"^part_(\w+)\(\)", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), flags=re.MULTILINE))
    called = set()
    for path in files(WORKFLOWS):
        for job in read(path)["jobs"].values():
            matrix = job.get("strategy", {}).get("matrix", {})
            for step in job["steps"]:
                # A major version of an action, no branch that moves.
                assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", "an/action@v1")), path.name
                words = step.get("run", "").partition("bash .ci/run")[2]
                for name, values in matrix.items():
                    words = words.replace(f"${{{{ matrix.{name} }}}}", " ".join(values))
                called |= set(words.split())
    assert called == parts, "a part that no workflow calls, or a word that is no part"


def test_an_unknown_part_is_refused() -> None:
    done = subprocess.run(["bash", ".ci/run", "tset"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "no part of .ci/run: tset\n")


@pytest.mark.parametrize("path", [path for path in files(FORMS) if path.stem != "config"], ids=lambda path: path.stem)
def test_forms_of_issues_have_what_a_form_needs(path: Path) -> None:
    form = read(path)
    assert form.keys() <= {"name", "description", "title", "labels", "body"}
    assert all(isinstance(form[key], str) and form[key] for key in ("name", "description"))
    ids = [field["id"] for field in form["body"]]
    labels = [field["attributes"]["label"] for field in form["body"]]
    assert len(set(ids)) == len(ids)
    assert len(set(labels)) == len(labels)
    for field in form["body"]:
        assert field["type"] in {"input", "textarea", "dropdown"}
        options = field["attributes"].get("options", [])
        assert all(isinstance(option, str) for option in options), "a bare Yes or No is a Boolean"
        assert bool(options) == (field["type"] == "dropdown")
        assert set(field.get("validations", {})) <= {"required"}


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    done = subprocess.run([sys.executable, ".ci/oldest.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    oldest = dict(line.split("==") for line in done.stdout.splitlines())
    dependencies = project()["dependencies"]
    assert all(">=" in requirement for requirement in dependencies), "a dependency without a lower bound"
    assert {f"{name}>={version}" for name, version in oldest.items()} >= set(dependencies)
