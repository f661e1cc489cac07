"""The history page: it has every run and case, its links work, and a run that cannot be read is shown as such."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from cprlib.cli.main import main
from cprlib.errors import UsageError
from cprlib.evidence.case import CaseEvidence
from cprlib.report import history as module
from cprlib.report.build_report import build_report
from cprlib.report.environment import Environment
from cprlib.report.history import draw_case, read_history, render_history, write_index
from cprlib.report.run_json import Milliseconds
from cprlib.traffic.figures import PerDirection
from cprlib.verdict.policy_file import load_policy
from tests.unit.evidence.samples import good_case

MACHINE = Environment(mode="lab", engine="uml", kernel="6.12", cpu="CPU A", cores=2, commit="abc")
LOST = replace(good_case("tap"), loss=PerDirection(1, 2))


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del tag
        self.found += [value or "" for name, value in attrs if name in ("href", "src")]


def links(page: Path) -> list[str]:
    parser = Links()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser.found


def save(top: Path, day: int, *cases: CaseEvidence, machine: Environment = MACHINE) -> Path:
    folder = top / f"2026-01-{day:02}T08-00-00Z"
    for case in cases:
        case.write(folder / "cases" / case.id)
    build_report(folder, load_policy("default"), environment=machine, command=f"cprlib run -p rate={day}")
    return folder


def test_every_run_and_case_is_on_the_page_and_every_link_works(tmp_path: Path) -> None:
    save(tmp_path, 1, good_case("tap"), good_case("vhost & <more>"))
    save(tmp_path, 2, LOST)
    (tmp_path / "prove" / "2026").mkdir(parents=True)
    (tmp_path / "prove" / "2026" / "mutation.html").touch()
    (tmp_path / "prove" / "latest").symlink_to("2026")
    (tmp_path / "compare" / "2026-01-03T08-00-00Z").mkdir(parents=True)
    (tmp_path / "compare" / "2026-01-03T08-00-00Z" / "compare.html").touch()
    (tmp_path / "latest").symlink_to("2026-01-02T08-00-00Z")
    page = write_index(tmp_path)
    found = [address for address in links(page) if not address.startswith("data:")]
    for address in found:
        path, _, anchor = address.partition("#")
        assert (tmp_path / unquote(path)).exists(), address
        if anchor:
            assert f'id="{unquote(anchor)}"'.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in (
                tmp_path / unquote(path)
            ).read_text(encoding="utf-8")
    assert "prove/2026/mutation.html" in found
    assert "compare/2026-01-03T08-00-00Z/compare.html" in found
    assert "2026-01-02T08-00-00Z/report.html#case-tap" in found
    text = page.read_text(encoding="utf-8")
    assert "cprlib run -p rate=2" in text
    assert "1 of 2 passed; newest: fail, 7,000 sent, 3 lost" in text
    assert "<more>" not in text


def test_a_page_behind_a_link_to_another_disk_is_linked(tmp_path: Path) -> None:
    results, disk = tmp_path / "results", tmp_path / "disk"
    (disk / "2026").mkdir(parents=True)
    (disk / "2026" / "mutation.html").touch()
    (disk / "latest").symlink_to("2026")
    results.mkdir()
    (results / "prove").symlink_to(disk)
    assert "prove/latest/mutation.html" in links(write_index(results))


@pytest.mark.pictures
def test_page_is_self_contained_and_for_its_owner_alone(tmp_path: Path) -> None:
    save(tmp_path, 1, good_case("tap"))
    save(tmp_path, 2, good_case("tap"))
    page = write_index(tmp_path)
    assert page.stat().st_mode & 0o777 == 0o600
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|<script|@import", text)
    assert text.count("data:image/svg+xml;base64,") == 1


def test_no_run_is_shown_and_no_folder_is_a_usage_error(tmp_path: Path) -> None:
    assert "No run in this folder" in write_index(tmp_path).read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="no such folder"):
        write_index(tmp_path / "gone")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"verdict": "pass"}', '{"verdict": "great", "environment": {}}'])
def test_run_that_cannot_be_read_is_on_the_page(tmp_path: Path, text: str) -> None:
    save(tmp_path, 1, good_case("tap"))
    folder = tmp_path / "2026-01-02T08-00-00Z"
    folder.mkdir()
    (folder / "run.json").write_text(text)
    history = read_history(tmp_path)
    assert history.runs[1].outcome is None
    assert "? unreadable" in render_history(history)
    assert "cannot be read" in render_history(history)


def test_cores_that_are_unknown_are_not_shown(tmp_path: Path) -> None:
    save(tmp_path, 1, good_case("tap"), machine=Environment(mode="lab", engine="uml", kernel="6.12"))
    assert read_history(tmp_path).runs[0].machine == "lab uml, unknown CPU, Linux 6.12"


def test_newest_runs_are_shown_and_older_ones_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RUNS", 3)
    first = save(tmp_path, 1, good_case("tap"))
    for day in range(2, 8):
        folder = tmp_path / f"2026-01-{day:02}T08-00-00Z"
        folder.mkdir()
        (folder / "run.json").write_text((first / "run.json").read_text())
    (tmp_path / "2026-01-09T08-00-00Z").mkdir()  # no report yet
    (tmp_path / "notes").mkdir()
    history = read_history(tmp_path)
    assert [run.name[:10] for run in history.runs] == ["2026-01-05", "2026-01-06", "2026-01-07"]
    assert history.older == 4
    assert "the newest of 7" in render_history(history)


def test_change_of_machine_or_qemu_is_marked(tmp_path: Path) -> None:
    save(tmp_path, 1, good_case("tap"))
    save(tmp_path, 2, good_case("tap"))
    save(tmp_path, 3, good_case("tap"), machine=replace(MACHINE, cpu="CPU B"))
    (tmp_path / "2026-01-04T08-00-00Z").mkdir()
    (tmp_path / "2026-01-04T08-00-00Z" / "run.json").write_text("{")
    other = replace(good_case("tap").source, sha256="ff" * 32)  # type: ignore[type-var]
    save(tmp_path, 5, replace(good_case("tap"), source=other, target=other), machine=replace(MACHINE, cpu="CPU B"))
    history = read_history(tmp_path)
    assert history.breaks == [2, 4]
    assert "machine or QEMU changed" in render_history(history)


def test_cases_that_ever_failed_come_first(tmp_path: Path) -> None:
    save(tmp_path, 1, good_case("a"), LOST)
    save(tmp_path, 2, good_case("a"), good_case("tap"))
    assert read_history(tmp_path).case_ids == ("tap", "a")


@pytest.mark.pictures
def test_plots_show_what_was_not_measured(tmp_path: Path) -> None:
    save(tmp_path, 1, LOST)
    save(tmp_path, 2, good_case("tap"))
    figures = [run.cases["tap"] for run in read_history(tmp_path).runs]
    measured = draw_case(figures, [1])
    unknown = [replace(one, loss=PerDirection(), interruption_ms=Milliseconds(None, None)) for one in figures]
    assert measured.startswith("<?xml")
    assert measured != draw_case(figures, [])
    assert draw_case(unknown, []) != measured
    assert draw_case([None, *figures], []) != measured


def test_command_writes_the_page_and_the_report_links_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save(tmp_path, 1, good_case("tap"))
    assert "../index.html" not in (folder / "report.html").read_text(encoding="utf-8")
    assert main(["report", "--index", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"history: {tmp_path}/index.html\n"
    assert main(["report", str(folder)]) == 0
    assert 'href="../index.html"' in (folder / "report.html").read_text(encoding="utf-8")
    assert main(["report", "--index", str(tmp_path / "gone")]) == 2


def test_run_judged_by_another_policy_changes_its_verdict(tmp_path: Path) -> None:
    folder = save(tmp_path, 1, LOST)
    assert json.loads((folder / "run.json").read_text())["verdict"] == "fail"
    lenient = tmp_path / "lenient.toml"
    lenient.write_text('extends = "default"\n[loss]\nforward = 5\nreturn = 5\n[ledger]\nunexplained = 5\n')
    build_report(folder, load_policy(lenient))
    assert read_history(tmp_path).runs[0].policy == "lenient"
    assert read_history(tmp_path).runs[0].cases["tap"].verdict == "pass"
