"""What each mechanism does for source and target."""

from dataclasses import replace

import pytest

from cprlib.errors import NotSupported
from cprlib.qemu.facts import LocalNames, QemuFacts
from cprlib.qemu.netdev import TapNetdev, TapSource
from cprlib.update.mechanism import Mechanism, Mode

pytestmark = pytest.mark.fast

CPR, FD_SHARE = Mechanism.CPR.handling, Mechanism.FD_SHARE.handling
LINK_SWITCH, LOCAL = Mechanism.LINK_SWITCH.handling, Mechanism.LOCAL.handling


def facts(*, netdev_cpr: bool) -> QemuFacts:
    return QemuFacts("/q", "10", "00", netdev_cpr=netdev_cpr, cpr_transfer=True, migration_local=False)


def test_cpr_sets_the_member_on_the_source() -> None:
    assert CPR.source_netdev(TapNetdev()).cpr is True


def test_cpr_needs_the_series_and_link_switch_does_not() -> None:
    with pytest.raises(NotSupported):
        CPR.require(facts(netdev_cpr=False))
    LINK_SWITCH.require(facts(netdev_cpr=False))


def test_fd_share_passes_descriptors_and_lets_each_qemu_open_vhost() -> None:
    shared = FD_SHARE.source_netdev(TapNetdev(queues=4, vhost=True))
    assert (shared.tap_source, shared.vhost_passed, shared.cpr) == (TapSource.FDS, False, None)
    assert FD_SHARE.source_netdev(TapNetdev()).tap_source is TapSource.FD
    assert [item for item in Mechanism if item.handling.shares_fds] == [Mechanism.FD_SHARE]


def test_identity_is_what_the_mechanism_hands_over() -> None:
    kept = {item: item.handling.same_files for item in Mechanism}
    assert kept[Mechanism.CPR] == ("tap", "vhost")
    assert kept[Mechanism.LOCAL] == kept[Mechanism.FD_SHARE] == ("tap",)  # each QEMU opens its own vhost
    assert not kept[Mechanism.LINK_SWITCH]


def test_local_sets_its_parameter_on_both_sides_where_qemu_has_it() -> None:
    with pytest.raises(NotSupported, match="no member 'local'"):
        LOCAL.require(facts(netdev_cpr=True))
    LOCAL.require(replace(facts(netdev_cpr=False), migration_local=True))
    assert LOCAL.parameters(LOCAL.source_netdev(TapNetdev(), LocalNames("backend-transfer"))) == {
        "backend-transfer": True
    }
    assert CPR.parameters(CPR.source_netdev(TapNetdev())) == {}
    assert LOCAL.arguments(LocalNames("local", nic="local-migration")) == (
        *("-global", "virtio-net-pci.local-migration=on"),
    )
    assert LOCAL.arguments(LocalNames("local")) == ()


def test_local_in_mode_normal_needs_no_cpr() -> None:
    old = replace(facts(netdev_cpr=False), cpr_transfer=False, migration_local=True, local=LocalNames("local"))
    LOCAL.require(old, Mode.NORMAL)
    with pytest.raises(NotSupported, match="no 'cpr-transfer'"):
        LOCAL.require(old)
    refuses = replace(old, cpr_transfer=True, local=LocalNames("local", in_cpr=False))
    with pytest.raises(NotSupported, match="refuses the parameter in that mode"):
        LOCAL.require(refuses)
    LOCAL.require(refuses, Mode.NORMAL)


def test_mode_cpr_exec_needs_a_qemu_that_has_it() -> None:
    for mechanism in (CPR, LINK_SWITCH):
        assert Mode.CPR_EXEC in mechanism.modes
        mechanism.require(replace(facts(netdev_cpr=True), cpr_exec=True), Mode.CPR_EXEC)
        with pytest.raises(NotSupported, match="its MigMode has no 'cpr-exec'; use QEMU") as caught:
            mechanism.require(facts(netdev_cpr=True), Mode.CPR_EXEC)
        assert caught.value.word == "no-cpr-exec"
