"""Version and features of a QEMU binary, as recorded in case.json and run.json."""

from __future__ import annotations

from dataclasses import dataclass

from cprlib.errors import NotSupported, SkipWord

LOCAL_ADVICE = "use a QEMU that has it (docs/own-qemu.md), or mechanism cpr"


@dataclass(frozen=True, slots=True)
class LocalNames:
    """Names of the hand-over of a tap in the device state; they changed from one text of that series to the next.

    :param parameter: migration parameter: ``local``, ``backend-transfer``.
    :param netdev: option of the tap netdev in source and target; empty for a QEMU without one, likewise below.
    :param target: option of the target's netdev only.
    :param nic: property of virtio-net-pci in source and target.
    :param in_cpr: the parameter is accepted in mode cpr-transfer.
    """

    parameter: str
    netdev: str = ""
    target: str = ""
    nic: str = ""
    in_cpr: bool = True


@dataclass(frozen=True, slots=True)
class QemuFacts:
    """Version and features of a binary.

    :param version: as query-version has it, with the packager's suffix.
    :param sha256: the executable's.
    :param netdev_cpr: NetdevTapOptions has a member ``cpr``.
    :param cpr_transfer: MigMode has ``cpr-transfer``.
    :param migration_local: MigrationParameters has ``local``, or ``backend-transfer`` as it was called before (newer
        QEMU's other way to keep descriptors).
    :param local: names that belong to it; None without it.
    :param cpr_exec: MigMode has ``cpr-exec``.
    """

    path: str
    version: str
    sha256: str
    netdev_cpr: bool
    cpr_transfer: bool
    migration_local: bool
    local: LocalNames | None = None
    cpr_exec: bool = False

    def require_cpr_transfer(self) -> None:
        """Refuse a QEMU without migration mode cpr-transfer.

        :raises NotSupported: with the reason in one line.
        """
        self._require(
            self.cpr_transfer, "live-update a guest with", "its MigMode has no 'cpr-transfer'", "use QEMU 10.0 or newer"
        )

    def require_netdev_cpr(self) -> None:
        """As :meth:`require_cpr_transfer`, also for a QEMU that cannot hand over a tap."""
        self.require_cpr_transfer()
        advice = "use a QEMU with the series, or mechanism link-switch"
        lacks = "its NetdevTapOptions has no member 'cpr'"
        self._require(self.netdev_cpr, "hand over a tap with", lacks, advice)

    def require_cpr_exec(self) -> None:
        """As :meth:`require_cpr_transfer`, for migration mode cpr-exec."""
        tried, lacks = "replace the QEMU process in place with", "its MigMode has no 'cpr-exec'"
        self._require(self.cpr_exec, tried, lacks, "use QEMU 10.2 or newer: --base 10.2", SkipWord.NO_CPR_EXEC)

    def require_migration_local(self) -> None:
        """As :meth:`require_cpr_transfer`, for a QEMU without migration parameter ``local``."""
        tried, lacks = "hand over a tap with migration parameter 'local' of", "its migrate-set-parameters has no member"
        self._require(self.migration_local, tried, f"{lacks} 'local'", LOCAL_ADVICE, SkipWord.NO_LOCAL)

    def require_local_in_cpr(self) -> None:
        """As :meth:`require_cpr_transfer`, also for a QEMU that refuses the parameter in that mode."""
        self.require_cpr_transfer()
        tried = "hand over a tap in mode cpr-transfer with migration parameter 'local' of"
        lacks, advice = "it refuses the parameter in that mode", "use mode normal: -p mode=normal"
        self._require(self.local is None or self.local.in_cpr, tried, lacks, advice, SkipWord.NO_LOCAL)

    def _require(self, supported: bool, tried: str, lacks: str, advice: str, word: SkipWord = SkipWord.NO_CPR) -> None:
        if not supported:
            happened = f"not supported by this QEMU ({self.version}): {lacks}"
            raise NotSupported(f"{tried} {self.path}", happened, advice, word=word)
