"""run.json, the page and the summaries of a results folder; broken or missing evidence is never ignored."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from cprlib.errors import ExitStatus, InstrumentError, UsageError
from cprlib.evidence.case import CaseEvidence, Packets
from cprlib.evidence.records import Check, Outcome
from cprlib.report.build_report import build_report, judge_results
from cprlib.report.environment import Environment, describe_run
from cprlib.report.results_folder import start_case
from cprlib.report.run_json import RUN_SCHEMA_FILE, run_value
from cprlib.report.summary import MARKDOWN_LINES, markdown_summary, result_table
from cprlib.traffic.figures import PerDirection
from cprlib.update.mechanism import Mechanism
from cprlib.verdict.judge import judge
from cprlib.verdict.policy_file import load_policy
from tests.unit.evidence.samples import MS, START_NS, good_case

KEY = "0123456789abcdef0123456789abcdef01234567"
DEFAULT = load_policy("default")
MACHINE = Environment(mode="native", kernel="6.12", python="3.13.1", cprlib="0.1.0")
HOSTILE = "<script>alert('x')</script>\x1b[31m\u202eexe|`"


def put(results: Path, case: CaseEvidence, packets: Packets | None = None) -> Path:
    folder = start_case(results, case.id, test=case.test, title=case.title, mechanism=case.mechanism)
    replace(case, id=folder.name).write(folder)
    if packets:
        packets.write(folder)
    return folder


def some_packets() -> Packets:
    sent = [START_NS + number * MS for number in range(4000)]
    reflected = [None if number == 2998 else moment + 300_000 for number, moment in enumerate(sent)]
    returned = [None if moment is None else moment + 300_000 for moment in reflected]
    return Packets.from_ns(sent, reflected, returned)


def write_job(results: Path, *tests: tuple[str, str, str]) -> None:
    """Avocado's results.json with tests of (id, status, reason)."""
    folder = results / "avocado" / "job-1"
    folder.mkdir(parents=True)
    values = [
        {"id": name, "name": name.split("-", 1)[1], "status": status, "fail_reason": reason, "time_elapsed": 1.5}
        for name, status, reason in tests
    ]
    (folder / "results.json").write_text(json.dumps({"tests": values}))


@pytest.mark.pictures
def test_good_run_passes_and_is_written_completely(tmp_path: Path) -> None:
    put(tmp_path, good_case(), some_packets())
    report = build_report(tmp_path, DEFAULT, environment=MACHINE, command="cprlib run")
    assert report.exit_status == ExitStatus.PASS
    value = json.loads((tmp_path / "run.json").read_text())
    assert value["verdict"] == "pass"
    assert value["cases"][0]["loss"] == {"forward": 0, "return": 0}
    assert value["cases"][0]["interruption_ms"] == {"forward": 288.1, "return": 288.9}
    assert value["cases"][0]["fds"] == {"paired": 2, "unpaired": 0}
    assert value["cases"][0]["budget_ms"] == 1000.0
    page = (tmp_path / "report.html").read_text()
    assert "data:image/svg+xml;base64," in page
    assert page.index("✓ pass") < page.index(">Cases</h2>")
    assert (tmp_path / "cases" / "cpr-tap-vhost-1-queue" / "timeline.svg").read_text().startswith("<?xml")


@pytest.mark.pictures
def test_page_is_self_contained(tmp_path: Path) -> None:
    put(tmp_path, good_case(), some_packets())
    build_report(tmp_path, DEFAULT, environment=MACHINE)
    page = (tmp_path / "report.html").read_text()
    for foreign in ("http://", "https://", "<script", "<link", "@import", "url("):
        assert foreign not in page


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    folder = put(tmp_path, good_case(), some_packets())
    build_report(tmp_path, DEFAULT, environment=MACHINE)
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in (tmp_path / "run.json", tmp_path / "report.html", *folder.iterdir()):
        assert path.stat().st_mode & 0o777 == 0o600, path


def test_empty_run_is_inconclusive(tmp_path: Path) -> None:
    report = build_report(tmp_path, DEFAULT, environment=MACHINE)
    assert report.exit_status == ExitStatus.INCONCLUSIVE
    assert "no case ran" in (tmp_path / "report.html").read_text()


def test_case_that_never_finished_is_inconclusive(tmp_path: Path) -> None:
    put(tmp_path, good_case())
    start_case(tmp_path, "cut-off", title="was killed", mechanism=Mechanism.CPR)
    report = build_report(tmp_path, DEFAULT, environment=MACHINE)
    assert report.exit_status == ExitStatus.INCONCLUSIVE
    assert "left no evidence" in (tmp_path / "report.html").read_text()
    assert {case.evidence.id: case.evidence.mechanism for case in report.cases}["cut-off"] == Mechanism.CPR


@pytest.mark.parametrize("text", ["", "{", "[]", '{"evidence_version": 2}', '{"evidence_version": 3}'])
def test_broken_evidence_is_inconclusive(tmp_path: Path, text: str) -> None:
    folder = start_case(tmp_path, "broken")
    (folder / "case.json").write_text(text)
    report = build_report(tmp_path, DEFAULT, environment=MACHINE)
    assert report.verdict.outcome == Outcome.INCONCLUSIVE
    assert "cannot be read" in result_table(report)


def test_broken_packets_cost_only_the_timeline(tmp_path: Path) -> None:
    folder = put(tmp_path, good_case())
    (folder / "packets.json").write_text("{")
    assert build_report(tmp_path, DEFAULT, environment=MACHINE).exit_status == ExitStatus.PASS
    assert "no timeline" in (tmp_path / "report.html").read_text()


def test_broken_started_file_does_no_harm(tmp_path: Path) -> None:
    for name, text in (("a", ""), ("b", "[]"), ("c", '{"mechanism": "warp"}')):
        folder = start_case(tmp_path, name)
        (folder / "started").write_text(text)
    assert len(judge_results(tmp_path, DEFAULT, environment=MACHINE).cases) == 3


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("PASS", Outcome.PASS),
        ("WARN", Outcome.PASS),
        ("FAIL", Outcome.FAIL),
        ("ERROR", Outcome.INCONCLUSIVE),
        ("INTERRUPTED", Outcome.INCONCLUSIVE),
    ],
)
def test_avocado_status_is_judged_with_the_evidence(tmp_path: Path, status: str, outcome: Outcome) -> None:
    put(tmp_path, replace(good_case(), test="1-tests/functional/test_update.py:T.test_x"))
    write_job(tmp_path, ("1-test_update.py:T.test_x", status, "boom"))
    assert judge_results(tmp_path, DEFAULT, environment=MACHINE).verdict.outcome == outcome


@pytest.mark.parametrize(
    ("status", "outcome", "words"),
    [
        ("PASS", Outcome.INCONCLUSIVE, "left no evidence"),
        ("ERROR", Outcome.INCONCLUSIVE, "qemu is no program"),
        ("FAIL", Outcome.FAIL, "qemu is no program"),
    ],
)
def test_test_without_case_is_shown_with_its_reason(tmp_path: Path, status: str, outcome: Outcome, words: str) -> None:
    put(tmp_path, good_case())
    write_job(tmp_path, ("2-test_update.py:T.test_y", status, "qemu is no program"))
    report = judge_results(tmp_path, DEFAULT, environment=MACHINE)
    assert report.verdict.outcome == outcome
    assert words in result_table(report)


def test_no_folder_is_named_for_a_test_that_left_no_case(tmp_path: Path) -> None:
    put(tmp_path, good_case().with_checks(Check("tap", Outcome.FAIL)))
    write_job(tmp_path, ("2-test_update.py:T.test_y", "ERROR", "qemu is no program"))
    report = build_report(tmp_path, DEFAULT, environment=MACHINE)
    folders = [case["folder"] for case in json.loads((tmp_path / "run.json").read_text())["cases"]]
    assert folders == ["cases/cpr-tap-vhost-1-queue", ""]
    for text in (result_table(report), (tmp_path / "junit.xml").read_text()):
        assert text.count("evidence: cases/") == 1


def test_cancelled_test_is_a_skip_with_its_reason(tmp_path: Path) -> None:
    start_case(tmp_path, "cpr-tap", test="1-t.py:T.test_z", mechanism=Mechanism.CPR)
    write_job(tmp_path, ("1-t.py:T.test_z", "CANCEL", "this QEMU has no cpr=on"))
    report = judge_results(tmp_path, DEFAULT, environment=MACHINE)
    assert report.cases[0].outcome == Outcome.INCONCLUSIVE  # without evidence no policy knows what kind of reason it is
    assert "this QEMU has no cpr=on" in result_table(report)
    skipped = CaseEvidence("cpr-tap", Mechanism.CPR, test="1-t.py:T.test_z", started_ns=1)
    put(tmp_path, replace(skipped, skipped="this QEMU has no cpr=on", skip_word="no-cpr", concluded=Outcome.SKIP))
    report = judge_results(tmp_path, DEFAULT, environment=MACHINE)
    assert report.cases[0].outcome == Outcome.SKIP
    assert report.verdict.outcome == Outcome.INCONCLUSIVE  # a skip proves nothing
    assert judge_results(tmp_path, load_policy("strict"), environment=MACHINE).verdict.outcome == Outcome.FAIL


def test_status_that_repeats_the_verdict_is_judged_again(tmp_path: Path) -> None:
    case = replace(good_case(), test="1-t.py:T.test_x", loss=PerDirection(2, 0), unexplained=2, concluded=Outcome.FAIL)
    put(tmp_path, case)
    reason = judge(case, DEFAULT).verdict.status_reason()
    assert reason.startswith("verdict: fail: ")
    write_job(tmp_path, ("1-t.py:T.test_x", "FAIL", reason))
    lenient = tmp_path / "lenient.toml"
    lenient.write_text('extends = "default"\n[loss]\nforward = 2\n[ledger]\nunexplained = 2\n')
    assert judge_results(tmp_path, DEFAULT, environment=MACHINE).verdict.outcome == Outcome.FAIL
    assert judge_results(tmp_path, load_policy(lenient), environment=MACHINE).verdict.outcome == Outcome.PASS


@pytest.mark.parametrize(
    ("status", "second"),
    [
        ("FAIL", {"loss": PerDirection(2, 0), "unexplained": 2, "concluded": Outcome.FAIL}),
        ("CANCEL", {"skipped": "no second CPU", "skip_word": "no-vcpus", "concluded": Outcome.SKIP}),
    ],
)
def test_status_of_a_test_that_one_of_its_cases_has_changes_no_other(
    tmp_path: Path, status: str, second: dict[str, Any]
) -> None:
    first = replace(good_case("first"), test="1-t.py:T.test_x", concluded=Outcome.PASS)
    put(tmp_path, first)
    put(tmp_path, replace(first, id="second", **second))
    write_job(tmp_path, ("1-t.py:T.test_x", status, "the second case"))
    found = {case.evidence.id: case for case in judge_results(tmp_path, DEFAULT, environment=MACHINE).cases}
    assert (found["first"].outcome, found["first"].evidence) == (Outcome.PASS, first)
    assert found["second"].outcome is not Outcome.PASS


def test_interrupted_job_is_inconclusive(tmp_path: Path) -> None:
    put(tmp_path, good_case())
    (tmp_path / "avocado" / "job-1").mkdir(parents=True)
    report = judge_results(tmp_path, DEFAULT, environment=MACHINE)
    assert report.verdict.outcome == Outcome.INCONCLUSIVE
    (tmp_path / "avocado" / "job-1" / "results.json").write_text('{"tests": [], "total": 3}')
    report = judge_results(tmp_path, DEFAULT, environment=MACHINE)
    assert "3 of 3 tests never ran" in result_table(report)


def test_unreadable_job_results_are_inconclusive(tmp_path: Path) -> None:
    put(tmp_path, good_case())
    (tmp_path / "avocado" / "job-1").mkdir(parents=True)
    (tmp_path / "avocado" / "job-1" / "results.json").write_text('{"tests": 3}')
    report = build_report(tmp_path, DEFAULT, environment=MACHINE)
    assert report.exit_status == ExitStatus.INCONCLUSIVE
    assert "Avocado" in result_table(report)


def test_missing_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        build_report(tmp_path / "none", DEFAULT, environment=MACHINE)


def test_hostile_text_is_harmless(tmp_path: Path) -> None:
    case = replace(good_case("hostile"), title=HOSTILE, warnings=(HOSTILE,), reproduce=HOSTILE).with_checks(
        Check(HOSTILE, Outcome.FAIL, HOSTILE, HOSTILE, HOSTILE * 500)
    )
    put(tmp_path, case)
    report = build_report(tmp_path, DEFAULT, environment=MACHINE, command=HOSTILE)
    page = (tmp_path / "report.html").read_text()
    for text in (page, result_table(report), markdown_summary(report)):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<script" not in markdown_summary(report)
    assert len(page) < 100_000


def test_run_json_fits_its_schema(tmp_path: Path) -> None:
    put(tmp_path, good_case())
    put(tmp_path, CaseEvidence("least", Mechanism.NONE))
    schema = json.loads(RUN_SCHEMA_FILE.path.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    value = run_value(judge_results(tmp_path, DEFAULT, environment=describe_run("uml")))
    RUN_SCHEMA_FILE.check(value)
    jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator)
    assert value["environment"]["cores"]
    for member in schema["$defs"]["RunCase"]["required"]:
        broken = json.loads(json.dumps(value))
        del broken["cases"][0][member]
        with pytest.raises(InstrumentError, match=member):
            RUN_SCHEMA_FILE.check(broken)


def test_summary_has_twenty_lines_however_many_cases(tmp_path: Path) -> None:
    for number in range(40):
        put(tmp_path, replace(good_case(f"case-{number}"), loss=PerDirection(number % 2, 0)))
    text = markdown_summary(judge_results(tmp_path, DEFAULT, environment=MACHINE, command="cprlib run"))
    assert len(text.splitlines()) <= MARKDOWN_LINES
    assert "more |" in text
    assert "✗ FAIL" in text.splitlines()[0]


def test_table_ends_with_the_verdict(tmp_path: Path) -> None:
    put(tmp_path, replace(good_case(), loss=PerDirection(2, 0)))
    text = result_table(judge_results(tmp_path, DEFAULT, environment=MACHINE))
    assert text.splitlines()[-1].startswith("verdict: FAIL (1 case: 1 fail; policy default)")
    assert "2 packets lost forward" in text
    assert text.isascii()


def test_lab_kernel_is_recorded_by_its_content(tmp_path: Path) -> None:
    def recorded(path: Path, content: str) -> str:
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        return describe_run("uml", lab_kernel=path).lab_kernel

    assert recorded(tmp_path / KEY / "linux", "built") == KEY  # of the store, whose entries have a hash of their recipe
    first, second = recorded(tmp_path / "a" / "linux", "one"), recorded(tmp_path / "a" / "linux", "two")
    assert first != second
    assert first == recorded(tmp_path / "b" / "linux", "one")
