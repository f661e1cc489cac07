"""What each mechanism gives source and target."""

import pytest

from cprlib.errors import NotSupported, UsageError
from cprlib.qemu.binary import QemuFacts
from cprlib.qemu.netdev import TapNetdev
from cprlib.update.mechanism import mechanism_named


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
