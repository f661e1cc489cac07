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

    def require_netdev_cpr(self) -> None:
        """Refuse a QEMU that cannot hand over a tap.

        :raises NotSupported: with the reason in one line.
        """
        self.require_cpr_transfer()
        if not self.netdev_cpr:
            raise NotSupported(
                f"hand over a tap with {self.path}",
                f"not supported by this QEMU ({self.version}): its NetdevTapOptions has no member 'cpr'",
                "use a QEMU with the series, or mechanism link-switch",
            )

    def require_migration_local(self) -> None:
        """Refuse a QEMU without migration parameter ``local``.

        :raises NotSupported: with the reason in one line.
        """
        self.require_cpr_transfer()
        if not self.migration_local:
            raise NotSupported(
                f"hand over a tap with migration parameter 'local' of {self.path}",
                f"not supported by this QEMU ({self.version}): its migrate-set-parameters has no member 'local'",
                "use a QEMU that has it, or mechanism cpr",
                word="no-local",
            )

    def require_cpr_transfer(self) -> None:
        """Refuse a QEMU without migration mode cpr-transfer.

        :raises NotSupported: with the reason in one line.
        """
        if not self.cpr_transfer:
            raise NotSupported(
                f"live-update a guest with {self.path}",
                f"not supported by this QEMU ({self.version}): its MigMode has no 'cpr-transfer'",
                "use QEMU 10.0 or newer",
            )
