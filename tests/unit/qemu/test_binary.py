"""Features of a QEMU come from its schema, in which names of types are masked."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from cprlib.errors import NotSupported, UsageError
from cprlib.qemu import binary
from cprlib.qemu.binary import (
    QemuBinary,
    Schema,
    common_machine,
    facts_from_schema,
    newest_common,
    probe,
    require_accelerator,
    require_nic,
)
from cprlib.qemu.facts import LocalNames

pytestmark = pytest.mark.fast

SCHEMA: list[dict[str, Any]] = [
    {"name": "netdev_add", "meta-type": "command", "arg-type": "7"},
    {"name": "7", "meta-type": "object", "tag": "type", "members": [], "variants": [{"case": "tap", "type": "8"}]},
    {
        "name": "8",
        "meta-type": "object",
        "members": [{"name": "ifname", "type": "str"}, {"name": "cpr", "type": "bool"}],
    },
    {"name": "migrate-set-parameters", "meta-type": "command", "arg-type": "9"},
    {"name": "9", "meta-type": "object", "members": [{"name": "mode", "type": "10"}]},
    {"name": "10", "meta-type": "enum", "members": [{"name": "normal"}, {"name": "cpr-transfer"}]},
]


def test_features_of_a_qemu_with_the_series() -> None:
    facts = facts_from_schema(Path("/q"), "10.0.0", "00", Schema(SCHEMA))
    assert (facts.netdev_cpr, facts.cpr_transfer, facts.migration_local) == (True, True, False)
    facts.require_netdev_cpr()


def test_stock_qemu_is_refused_with_the_reason() -> None:
    stock = [entry for entry in SCHEMA if entry["name"] != "8"]
    facts = facts_from_schema(Path("/q"), "10.0.0", "00", Schema(stock))
    with pytest.raises(NotSupported, match=r"not supported by this QEMU \(10\.0\.0\): .* no member 'cpr'"):
        facts.require_netdev_cpr()
    facts.require_cpr_transfer()


def test_migration_parameter_local_is_probed_for() -> None:
    facts = facts_from_schema(Path("/q"), "11.1.3", "00", Schema(SCHEMA))
    with pytest.raises(NotSupported, match="has no member 'local'") as caught:
        facts.require_migration_local()
    assert caught.value.word == "no-local"
    facts_from_schema(Path("/q"), "12.0.0", "00", with_local("local")).require_migration_local()


def with_local(parameter: str, *netdev: str, kind: str = "bool") -> Schema:
    newer = [dict(entry) for entry in SCHEMA]
    newer[4]["members"] = [*newer[4]["members"], {"name": parameter, "type": kind}]
    newer[2]["members"] = [*newer[2]["members"], *({"name": name, "type": "bool"} for name in netdev)]
    return Schema(newer)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (with_local("local", "x-permit-local-migration"), LocalNames("local", "x-permit-local-migration")),
        (with_local("local", "x-local-migration-supported"), LocalNames("local", "x-local-migration-supported")),
        (
            with_local("local", "local-migration-supported", "incoming-fds"),
            LocalNames("local", "local-migration-supported", "incoming-fds"),
        ),
        (with_local("backend-transfer", "incoming-fds"), LocalNames("backend-transfer", target="incoming-fds")),
        (with_local("backend-transfer", kind="[str]"), None),  # the first texts had a list of devices
    ],
)
def test_each_text_of_the_local_series_has_its_names(schema: Schema, expected: LocalNames | None) -> None:
    facts = facts_from_schema(Path("/q"), "12.0.0", "00", schema)
    assert (facts.local, facts.migration_local) == (expected, expected is not None)


def test_newest_common_machine_type() -> None:
    old = frozenset({"none", "pc-q35-9.2", "pc-q35-10.0", "pc-i440fx-10.0", "microvm"})
    new = old | {"pc-q35-10.1", "pc-q35-10.2"}
    assert newest_common("pc-q35", old, new) == "pc-q35-10.0"
    assert newest_common("pc-q35", old - {"pc-q35-10.0"}, new) == "pc-q35-9.2"
    assert newest_common("pc-q35", frozenset({"microvm"}), new) is None


@pytest.mark.parametrize(
    ("types", "newest"),
    [
        ({"q35", "pc-q35-rhel9.4.0", "pc-q35-rhel9.6.0", "pc-q35-rhel10.0.0"}, "pc-q35-rhel10.0.0"),
        ({"q35", "pc-q35-9.2", "pc-q35-9.2+pve1", "pc-q35-9.1"}, "pc-q35-9.2"),
        ({"q35", "pc-q35-noble", "pc-q35-8.2"}, "pc-q35-8.2"),
        ({"q35", "pc-q35-noble"}, "pc-q35-noble"),
        ({"q35", "pc"}, None),
    ],
)
def test_newest_common_machine_type_of_a_distribution(types: set[str], newest: str | None) -> None:
    assert newest_common("pc-q35", frozenset(types), frozenset(types)) == newest


def test_machine_of_an_update_between_releases_follows_the_run() -> None:
    old = frozenset({"pc-q35-9.2", "pc-q35-10.0", "pc-i440fx-10.0"})
    new = old | {"pc-q35-10.2", "pc-i440fx-10.2"}
    assert common_machine("q35", old, new) == "pc-q35-10.0"
    assert common_machine("pc", old, new) == "pc-i440fx-10.0"
    assert common_machine("pc-q35-9.2", old, new) == "pc-q35-9.2"
    assert common_machine("q35", frozenset(), new) == "q35"


def test_ancient_qemu_has_no_cpr_transfer() -> None:
    facts = facts_from_schema(Path("/q"), "7.2.0", "00", Schema([]))
    with pytest.raises(NotSupported, match="no 'cpr-transfer'"):
        facts.require_netdev_cpr()


def test_missing_accelerator_is_named(tmp_path: Path) -> None:
    program = tmp_path / "qemu"
    program.write_text('#!/bin/sh\necho "qemu: -accel $9: invalid accelerator $9" >&2\nexit 1\n')
    program.chmod(0o755)
    with pytest.raises(UsageError, match=r"with accelerator tcg: .*invalid accelerator .*--enable-tcg"):
        require_accelerator(QemuBinary(program), "tcg")
    with pytest.raises(UsageError, match=r"with accelerator kvm: .*invalid accelerator .*cprlib doctor"):
        require_accelerator(QemuBinary(program), "kvm")


@pytest.mark.parametrize("starts", [True, False])
def test_a_value_that_the_nic_does_not_take_is_named(monkeypatch: pytest.MonkeyPatch, starts: bool) -> None:
    """Not, where QEMU does not start without the NIC either."""

    def started(_: QemuBinary, *arguments: str, machine: str) -> contextlib.nullcontext[None]:
        assert (machine, arguments[0]) == ("pc", "-nodefaults")
        if "virtio-net-pci,romfile=,duplex=a,,b" in arguments or not starts:
            raise UsageError("use /q as QEMU", "'duplex' must be 'half' or 'full'")
        return contextlib.nullcontext()

    monkeypatch.setattr(binary, "started_without_guest", started)
    expected = (
        pytest.raises(UsageError, match=r"with nic\.duplex=a,b: 'duplex' must") if starts else contextlib.nullcontext()
    )
    with expected:
        require_nic(QemuBinary(Path("/q")), "pc", {"duplex": "a,b"}, ["-nodefaults"])
    require_nic(QemuBinary(Path("/q")), "pc", {"duplex": "half"}, ["-nodefaults"])


@pytest.mark.parametrize(("path", "words"), [("/nonexistent/qemu", "no such file"), ("/bin/true", "no message")])
def test_path_that_is_no_qemu(path: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        probe(QemuBinary(Path(path)))
    assert "\n" not in caught.value.one_line()


@pytest.mark.parametrize(("mode", "words"), [(0o644, "not executable"), (0o755, "Exec format error")])
def test_text_file_is_no_qemu(tmp_path: Path, mode: int, words: str) -> None:
    path = tmp_path / "qemu"
    path.write_text("not a program")
    path.chmod(mode)
    with pytest.raises(UsageError, match=words):
        probe(QemuBinary(path))
