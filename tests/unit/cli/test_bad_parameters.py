"""Bad parameters are refused in one line, with exit status 2, before anything is built or booted."""

from __future__ import annotations

import pytest

from cprlib.cli.main import main
from cprlib.errors import ExitStatus, UsageError
from cprlib.testing.parameters import SuiteParameters, check_parameters

pytestmark = pytest.mark.fast

BAD = {
    "rate=0": "above 0",
    "rate=-5": "above 0",
    "rate=nan": "above 0",
    "rate=inf": "above 0",
    "rate=1e9": "1 to 1e",
    "rate=fast": "has to be a float",
    "size=43": "44 to 1472",
    "size=1473": "44 to 1472",
    "size=-1": "44 to 1472",
    "size=big": "has to be a int",
    "queues=0": "above 0",
    "queue_length=0": "above 0",
    "control_run=0.5": "1 to 3600",
    "before=-1": "above 0",
    "memory=1": "64 to",
    "ip_version=5": "4 or 6",
    "dscp=64": "0 to 63",
    "fault_repeats=0": "above 0",
    "ratte=1000": "no such parameter",
    "rate": "not NAME=VALUE",
}


@pytest.fixture(autouse=True)
def nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object, **__: object) -> None:
        raise AssertionError("something was built")

    monkeypatch.setattr("cprlib.build.assets.build_assets", build)


@pytest.mark.parametrize(("given", "why"), BAD.items())
def test_bad_parameter_is_a_usage_error_in_one_line(given: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--lab", "-p", given]) == ExitStatus.USAGE
    printed = capsys.readouterr()
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1
    assert why in lines[0]
    assert given.partition("=")[0] in lines[0]


def test_largest_packet_is_smaller_over_ipv6() -> None:
    check_parameters({"ip_version": "6", "size": "1452"})
    with pytest.raises(UsageError, match="44 to 1452"):
        check_parameters({"ip_version": "6", "size": "1453"})


def test_defaults_are_valid() -> None:
    check_parameters({"policy": "default"})
    assert SuiteParameters().fault_repeats == 1


@pytest.mark.parametrize(
    ("rate", "answered", "wanted", "packets"),
    [
        (1000, 900, 500, 1000),  # enough packets: only the time "after"
        (200, 250, 500, 250),  # time for the missing packets
        (200, 450, 500, 200),  # at least the time "after"
        (10, 12, 500, 100),  # limited
    ],
)
def test_traffic_lasts_until_the_policy_has_its_packets(rate: float, answered: int, wanted: int, packets: int) -> None:
    assert SuiteParameters(rate=rate).packets_after(answered, wanted) == packets
