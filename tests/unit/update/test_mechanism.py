"""What each mechanism gives source and target."""

from dataclasses import replace

import pytest

from cprlib.errors import NotSupported, UsageError
from cprlib.qemu.facts import QemuFacts
from cprlib.qemu.netdev import TapNetdev, Way
from cprlib.update.mechanism import mechanism_named, target_arguments


def facts(*, netdev_cpr: bool) -> QemuFacts:
    return QemuFacts("/q", "10", "00", netdev_cpr=netdev_cpr, cpr_transfer=True, migration_local=False)


def test_cpr_sets_the_member_on_the_source() -> None:
    assert mechanism_named("cpr").source_netdev(TapNetdev()).cpr is True


def test_cpr_needs_the_series_and_link_switch_does_not() -> None:
    with pytest.raises(NotSupported):
        mechanism_named("cpr").require(facts(netdev_cpr=False))
    mechanism_named("link-switch").require(facts(netdev_cpr=False))


def test_unknown_mechanism_is_named() -> None:
    with pytest.raises(UsageError, match="teleport"):
        mechanism_named("teleport")


def test_fd_share_passes_descriptors_and_lets_each_qemu_open_vhost() -> None:
    shared = mechanism_named("fd-share").source_netdev(TapNetdev(queues=4, vhost=True))
    assert (shared.way, shared.vhost_passed, shared.cpr) == (Way.FDS, False, None)
    assert mechanism_named("fd-share").source_netdev(TapNetdev()).way is Way.FD
    assert [name for name in ("cpr", "link-switch", "fd-share", "local") if mechanism_named(name).shares_files] == [
        "fd-share"
    ]


def test_local_sets_its_parameter_on_both_sides_where_qemu_has_it() -> None:
    local = mechanism_named("local")
    with pytest.raises(NotSupported, match="no member 'local'"):
        local.require(facts(netdev_cpr=True))
    local.require(replace(facts(netdev_cpr=False), migration_local=True))
    assert local.parameters == {"local": True}
    assert target_arguments(local) == ("-global", "migration.local=on")
    assert target_arguments(mechanism_named("cpr")) == ()
