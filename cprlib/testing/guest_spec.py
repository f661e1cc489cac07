"""The guest that a test asks for."""

from __future__ import annotations

from dataclasses import dataclass

from cprlib.evidence.records import Role
from cprlib.guest.image import GuestImage, NicAddresses, kernel_command_line
from cprlib.linux.topology import GUEST, further_guest
from cprlib.qemu.binary import QemuBinary
from cprlib.qemu.command_line import MachineSettings
from cprlib.qemu.facts import LocalNames
from cprlib.qemu.netdev import TapNetdev, VirtioNet
from cprlib.testing.parameters import SuiteParameters
from cprlib.update.mechanism import Mechanism, Mode

MIB_PER_QUEUE_PAIR = 2  # a guest's driver fills each receive ring with 256 buffers of at most a page


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """A guest, and what its case is for. Everything else is the run's: :class:`SuiteParameters`.

    :param mechanism, mode: of its updates.
    :param queues: queue pairs of its NIC, where the run has no parameter ``queues``.
    :param vhost: whether the NIC uses vhost-net.
    :param netdevs: instead of these two: one NIC on each.
    :param plugged: netdevs and NICs are added by QMP before the guest runs.
    :param pluggable: NICs can be added later. Such a guest, and one with ``plugged``, has machine ``pc``, whose bus
        takes NICs as it is; ``q35`` needs a port for each.
    :param machine: machine type; the run's when empty.
    :param arguments: further arguments of source and target.
    :param between_qemus: updates lead to the run's other QEMU; without one the case is skipped.
    :param role: what the case shows.
    :param ip_version: of the measured stream; the run's when None.
    :param rate_share: of the run's rate that the measured stream takes, where other streams flow beside it.
    :param boots: the guest boots in the case; otherwise it may be restored from a template.
    """

    mechanism: Mechanism = Mechanism.CPR
    mode: Mode = Mode.CPR_TRANSFER
    queues: int = 1
    vhost: bool = False
    netdevs: tuple[TapNetdev, ...] = ()
    plugged: bool = False
    pluggable: bool = False
    machine: str = ""
    arguments: tuple[str, ...] = ()
    between_qemus: bool = False
    role: Role = Role.UPDATE
    ip_version: int | None = None
    rate_share: float = 1.0
    boots: bool = False

    def netdevs_in(self, run: SuiteParameters) -> tuple[TapNetdev, ...]:
        """The guest's netdevs, before a mechanism adds its options."""
        return self.netdevs or (TapNetdev(queues=run.queues or self.queues, vhost=self.vhost),)

    def settings(
        self, run: SuiteParameters, qemu: QemuBinary, image: GuestImage, local: LocalNames | None = None
    ) -> MachineSettings:
        """Settings of the QEMU that boots the guest.

        :param local: names of ``qemu`` for mechanism ``local``.
        """
        netdevs, handling = self.netdevs_in(run), self.mechanism.handling
        plugged = self.plugged or handling.plugged
        ends = (GUEST, *(further_guest(number) for number in range(1, len(netdevs))))
        return MachineSettings(
            qemu=qemu,
            kernel=image.kernel,
            initramfs=image.initramfs,
            kernel_arguments=kernel_command_line(
                [NicAddresses(f"{end.ipv4}/24", f"{end.ipv6}/64") for end in ends],
                emulated=run.accelerator == "tcg",
                queue_pairs=netdevs[0].queues,
            ),
            netdevs=tuple(handling.source_netdev(netdev, local) for netdev in netdevs),
            nics=tuple(
                VirtioNet(end.mac, f"nic{number}", netdev.identifier, netdev.queues)
                for number, (end, netdev) in enumerate(zip(ends, netdevs, strict=True))
            ),
            machine=self.machine or ("pc" if plugged or self.pluggable else run.machine),
            accelerator=run.accelerator,
            memory_mib=run.memory + MIB_PER_QUEUE_PAIR * sum(netdev.queues for netdev in netdevs[1:]),
            extra=(*handling.arguments(local), *self.arguments),
            plugged=plugged,
            mutant=run.mutant,
        )
