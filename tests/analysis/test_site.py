"""Pages of published folders: one for several folders, complete, escaped, and never in what was published."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest
import tomli_w
from fake_records import fake_record
from published_runs import contents, environment, finished, typed
from tracked_runs import EPOCHS, RULES, begin_cell, finish_cell

from kdbench.analysis.publishing.making import publish
from kdbench.analysis.publishing.site import write_site
from kdbench.errors import UserError
from kdbench.experiment.record_checks import sealed


def test_no_page_is_written_into_a_published_folder(tmp_path: Path) -> None:
    finished(tmp_path / "runs", "kd")
    publish(tmp_path / "runs", tmp_path / "out", None)
    before = contents(tmp_path / "out")
    for out in ("out", "out/site", "runs/../out"):
        with pytest.raises(UserError, match="which was published: choose another folder with --out DIR"):
            write_site([tmp_path / "out"], tmp_path / out)
    assert contents(tmp_path / "out") == before


def test_a_page_of_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2):
        finished(tmp_path / "a", "ce", seed)
        finished(tmp_path / "a", "kd", seed)
        finished(tmp_path / "b", "dkd", seed, environment=environment(device="GPU <script>alert(1)</script>"))
    changed = {"top1": 50.5 + EPOCHS, "best_on_test": {"top1": 60.0, "epoch": 3}}
    (tmp_path / "b").mkdir(exist_ok=True)
    folder, record = begin_cell(tmp_path / "b", "kd", 1)
    (folder / "record.json").write_text(json.dumps(sealed(record | changed)))
    publish(tmp_path / "a", tmp_path / "first/results", "Ada & co")
    publish(tmp_path / "b", tmp_path / "second/results", None)
    words = ("site", tmp_path / "first/results", tmp_path / "second/results", "--out", tmp_path / "site")
    assert typed(monkeypatch, *words) == 0
    page = (tmp_path / "site/index.html").read_text()
    report = (tmp_path / "site/report/index.html").read_text()
    assert "Ada &amp; co" in page
    assert ">results-2<" in page
    assert "GPU &lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page
    assert "1 cell in several folders: the first folder&#39;s result counts; 1 with another top-1" in page
    assert "by at most 0.50 points" in page
    assert "6 cells compared, from 2 folders" in page
    for method in ("ce", "kd", "dkd"):
        assert re.search(rf'<th scope="row"[^>]*>{method}</th>', page)
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert "report/index.html" in links
    assert all(link.startswith(("#", "report/", "data:")) for link in links)
    for text in (page, report):
        assert str(tmp_path) not in text
        assert socket.gethostname() not in text
    assert "results-2/records/" in report
    before = contents(tmp_path / "site")
    assert typed(monkeypatch, *words) == 0
    after = contents(tmp_path / "site")
    assert {name: content for name, (content, _) in after.items()} == {name: data for name, (data, _) in before.items()}


def test_a_site_counts_the_baseline_of_several_pairs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for method, teacher in (("ce", None), ("kd", "resnet20"), ("kd", "resnet14")):
        taught = {"teacher": teacher, "teacher_id": f"cell:abcdef{teacher}"}
        record = fake_record(method, 1, 50.0 + EPOCHS, protocol=RULES, **taught, loss={"ce": 0.125})
        folder = tmp_path / "runs" / record["protocol"] / f"{teacher}-resnet8" / method / f"seed1-{record['cell'][:8]}"
        folder.mkdir(parents=True)
        config = record["config"] | {"id": record["cell"], "source": "", "chosen": {}}
        (folder / "config.toml").write_text(tomli_w.dumps(config))
        finish_cell(folder, sealed(record))
    publish(tmp_path / "runs", tmp_path / "results", None)
    assert typed(monkeypatch, "site", tmp_path / "results", "--out", tmp_path / "site") == 0
    page = (tmp_path / "site/index.html").read_text()
    assert re.findall(r"\d+ cells? compared, from \d+ folders?", page) == ["3 cells compared, from 1 folder"]
