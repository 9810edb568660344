"""The report of a verification, in Markdown and for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from kdbench.analysis.publishing.readme import plain
from kdbench.analysis.tables.render import Format, render
from kdbench.analysis.tables.table import Table, words
from kdbench.utils.text import counted
from kdbench.verify.checking import Draw
from kdbench.verify.findings import CHECKS, Finding, Verdict
from kdbench.verify.first_epochs import TOLERANCE
from kdbench.verify.stored import Stored

_VERDICTS: tuple[Verdict, ...] = ("same", "differs", "not checked")


@final
@dataclass(frozen=True, slots=True)
class Verification:
    """What was verified, on what, and what it came to."""

    stored: Stored
    findings: Sequence[Finding]
    drawn: Draw | None
    """The cells that were trained again; None where none were asked for."""
    seed: int
    epochs: int
    environment: Mapping[str, Any]

    @property
    def differences(self) -> list[Finding]:
        """The findings that something differs."""
        return [finding for finding in self.findings if finding.verdict == "differs"]

    @property
    def sentence(self) -> str:
        """What it came to, in one sentence."""
        records = {finding.subject for finding in self.findings if finding.check == "record"}
        what = f"{counted(len(records), 'record')} in {self.stored.runs}"
        if not self.differences:
            return f"{what}: nothing differs"
        subjects = {finding.subject for finding in self.differences}
        return f"{what}: {counted(len(self.differences), 'difference')} in {counted(len(subjects), 'folder')}"

    def summary(self, form: Format) -> str:
        """Return the tables that are printed."""
        return render([table for table in self._tables() if table.rows], form)

    def markdown(self) -> str:
        """Return the report; equal findings on one machine give equal bytes."""
        environment = self.environment | self.environment["versions"]
        lines = [
            f"# Verification of {plain(str(self.stored.runs))}",
            plain(f"{self.sentence}."),
            render([_machine(environment)], "markdown").strip(),
            self.summary("markdown").strip(),
            render([self._cells()], "markdown").strip(),
        ]
        return "\n\n".join(lines) + "\n"

    def _tables(self) -> list[Table]:
        return [self._counts(), self._list("differs", "Differences"), self._trained(), self._unchecked()]

    def _counts(self) -> Table:
        counts = Counter((finding.check, finding.verdict) for finding in self.findings)
        rows = tuple(
            words(check, *(f"{counts[check, verdict]:,}" for verdict in _VERDICTS))
            for check in CHECKS
            if any(counts[check, verdict] for verdict in _VERDICTS)
        )
        notes = tuple(f"{row[0].text}: {CHECKS[row[0].text]}" for row in rows)  # type: ignore[index]
        return Table("Checks", (("check", *_VERDICTS),), rows, notes)

    def _list(self, verdict: Verdict, title: str) -> Table:
        rows = tuple(
            words(self._name(finding), finding.check, finding.text)
            for finding in self.findings
            if finding.verdict == verdict
        )
        return Table(title, (("folder", "check", "what"),), rows, num_labels=3)

    def _trained(self) -> Table:
        found = [finding for finding in self.findings if finding.check == "first epochs"]
        rows = tuple(words(self._name(finding), finding.verdict, finding.text) for finding in found)
        notes: list[str] = []
        if self.drawn:
            number = counted(len(self.drawn.cells), "cell")
            notes.append(f"{number} of {self.drawn.num_possible:,}, drawn with --seed {self.seed}")
            notes.append(f"from nothing, {counted(self.epochs, 'epoch')} of each")
            notes += [f"{counted(num, 'cell')} not drawn from: {why}" for why, num in self.drawn.reasons.items()]
        notes.append(
            "where processor, threads, torch, commit, devices, compile and the teacher's outputs agree, digits are "
            f"judged; elsewhere the losses of the first steps, within {TOLERANCE:g}, and accuracies are not"
        )
        return Table(
            "Trained again", (("folder", "verdict", "how closely it agrees"),), rows, tuple(notes), num_labels=3
        )

    def _unchecked(self) -> Table:
        counts = Counter(
            (finding.check, finding.text)
            for finding in self.findings
            if finding.verdict == "not checked" and finding.check != "first epochs"
        )
        rows = tuple(words(check, f"{number:,}", text) for (check, text), number in counts.items())
        return Table("Not checked", (("check", "folders", "why"),), rows, num_labels=3)

    def _cells(self) -> Table:
        verdicts: dict[str, Counter[Verdict]] = {}
        for finding in self.findings:
            verdicts.setdefault(finding.subject, Counter())[finding.verdict] += 1
        rows = []
        for cell in self.stored.cells:
            counts = verdicts.get(str(cell.folder), Counter[Verdict]())
            record = cell.record
            hashes = (str(record.get(name, ""))[:16] for name in ("record_hash", "weights"))
            numbers = (f"{counts[verdict]}" for verdict in _VERDICTS)
            rows.append(words(self._relative(str(cell.folder)), f"{record['top1']:.2f}", *hashes, *numbers))
        heads = ("folder", "top-1 %", "hash of the record", "hash of the weights", *_VERDICTS)
        return Table("Cells, with the number of checks", (heads,), tuple(rows))

    def _name(self, finding: Finding) -> str:
        return self._relative(finding.subject)

    def _relative(self, subject: str) -> str:
        try:
            return str(Path(subject).relative_to(self.stored.runs))
        except ValueError:
            return subject


def _machine(environment: Mapping[str, Any]) -> Table:
    names = ("device", "threads", "system", "torch", "python", "kdbench")
    values = [str(environment.get(name, "unknown")) for name in names]
    commit = environment.get("commit")
    code = f"{commit[:8]}{'+' if environment.get('dirty') else ''}" if commit else "unknown"
    return Table("Verified on", ((*names, "commit"),), (words(*values, code),))
