"""What a QEMU says about itself; stands in case.json and run.json."""

from __future__ import annotations

from dataclasses import dataclass

from cprlib.errors import NotSupported


@dataclass(frozen=True, slots=True)
class QemuFacts:
    """What was found out about a binary.

    :param version: as query-version has it, with the packager's suffix.
    :param sha256: of the executable.
    :param netdev_cpr: NetdevTapOptions has a member ``cpr``.
    :param cpr_transfer: MigMode has ``cpr-transfer``.
    :param migration_local: MigrationParameters has ``local`` (newer QEMU's other way to keep descriptors).
    """

    path: str
    version: str
    sha256: str
    netdev_cpr: bool
    cpr_transfer: bool
    migration_local: bool

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
        self._require(
            self.netdev_cpr, "hand over a tap with", "its NetdevTapOptions has no member 'cpr'", advice, "no-cpr"
        )

    def require_migration_local(self) -> None:
        """As :meth:`require_cpr_transfer`, also for a QEMU without migration parameter ``local``."""
        self.require_cpr_transfer()
        tried, lacks = "hand over a tap with migration parameter 'local' of", "its migrate-set-parameters has no member"
        self._require(
            self.migration_local, tried, f"{lacks} 'local'", "use a QEMU that has it, or mechanism cpr", "no-local"
        )

    def _require(self, supported: bool, tried: str, lacks: str, advice: str, word: str = "no-cpr") -> None:
        if not supported:
            happened = f"not supported by this QEMU ({self.version}): {lacks}"
            raise NotSupported(f"{tried} {self.path}", happened, advice, word=word)
