"""The guest that a test asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cprlib.evidence.records import Role
from cprlib.guest.image import GuestImage, kernel_command_line
from cprlib.linux.topology import guest_end
from cprlib.qemu.binary import QemuBinary
from cprlib.qemu.command_line import MEMORY_MIB, MachineSettings, global_properties
from cprlib.qemu.facts import LocalNames
from cprlib.qemu.netdev import NIC_DRIVER, TapNetdev, TapSource, VirtioNet
from cprlib.testing.parameters import LONGEST_AFTER_S, PROPERTY_IS_ON, SuiteParameters
from cprlib.update.mechanism import Mechanism, Mode

# A guest's driver fills each receive ring, of up to 1024 buffers whatever rx_queue_size says (virtio_add_queue() of
# stable releases): with 1536 bytes each, or without mergeable buffers with 18 pages (add_recvbuf_big(), virtio_net.c).
MIB_PER_QUEUE_PAIR, MIB_WITHOUT_MERGEABLE_BUFFERS = 2, 76
MIB_PER_VCPU = 16


def mib_per_queue_pair(nic: Mapping[str, str]) -> int:
    """Memory in MiB that a guest's driver takes for the receive buffers of a queue pair.

    :param nic: properties of the NIC.
    """
    mergeable = nic.get("mrg_rxbuf", "on") in PROPERTY_IS_ON
    return MIB_PER_QUEUE_PAIR if mergeable else MIB_WITHOUT_MERGEABLE_BUFFERS


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """A guest, and what its case is for. Everything else is the run's: :class:`SuiteParameters`.

    :param mechanism, mode: how it is updated.
    :param queues: queue pairs of its NIC, where the run has no parameter ``queues``.
    :param used: how many of them the guest uses from its boot on; all when None.
    :param vhost: whether the NIC uses vhost-net.
    :param netdevs: instead of these two: one NIC on each.
    :param plugged: netdevs and NICs are added by QMP before the guest runs.
    :param pluggable: NICs can be added later. Such a guest, and one with ``plugged``, has machine ``pc`` instead of
        ``q35``: its bus takes NICs as it is, and ``q35`` needs a port for each.
    :param machine: machine type; the run's when empty.
    :param arguments: further arguments of source and target.
    :param between_qemus: updates lead to the run's other QEMU; without one the case is skipped.
    :param role: what the case shows.
    :param ip_version: IP version of the measured stream; the run's when None.
    :param rate_share: share of the run's rate for the measured stream, where other streams flow beside it; more at a
        low rate.
    :param boots: the guest boots in the case; otherwise it may be restored from a template.
    :param root_ports: each NIC is behind a PCIe root port of its own, as libvirt has it; with machine ``q35``, and no
        legacy NICs.
    :param suspends: the guest can be suspended to RAM and woken.
    :param vcpus: CPUs of the guest; more if the run has more.
    :param nic: type of its NICs, which must have one queue pair if it is not virtio-net-pci.
    :param more_mib: memory beyond what guests need, in MiB.
    """

    mechanism: Mechanism = Mechanism.CPR
    mode: Mode = Mode.CPR_TRANSFER
    queues: int = 1
    used: int | None = None
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
    root_ports: bool = False
    suspends: bool = False
    vcpus: int = 1
    nic: str = NIC_DRIVER
    more_mib: int = 0

    def netdevs_in(self, run: SuiteParameters) -> tuple[TapNetdev, ...]:
        """The guest's netdevs, before a mechanism adds its options."""
        source = TapSource.MACVTAP if run.macvtap else TapSource.INTERFACE
        return self.netdevs or (TapNetdev(queues=run.queues or self.queues, vhost=self.vhost, tap_source=source),)

    def settings(
        self, run: SuiteParameters, qemu: QemuBinary, image: GuestImage, local: LocalNames | None = None
    ) -> MachineSettings:
        """Settings of the QEMU that boots the guest.

        :param local: names of ``qemu`` for mechanism ``local``.
        """
        netdevs, handling, machine = self.netdevs_in(run), self.mechanism.handling, self.machine_in(run)
        ports = self.root_ports and run.may_have_ports(machine)
        nic_properties = run.nic_properties
        properties = global_properties(NIC_DRIVER, nic_properties)
        ends = [guest_end(number) for number in range(len(netdevs))]
        return MachineSettings(
            qemu=qemu,
            kernel=image.kernel_for(machine, suspends=self.suspends),
            initramfs=image.initramfs,
            kernel_arguments=kernel_command_line(
                ends,
                emulated=run.accelerator == "tcg",
                queue_pairs=self.used or netdevs[0].queues,
            ),
            netdevs=tuple(handling.source_netdev(netdev, local) for netdev in netdevs),
            nics=tuple(
                VirtioNet(
                    end.mac,
                    f"nic{number}",
                    netdev.identifier,
                    netdev.queues,
                    f"port{number}" if ports else "",
                    msix="vectors" not in nic_properties,
                    driver=self.nic,
                )
                for number, (end, netdev) in enumerate(zip(ends, netdevs, strict=True))
            ),
            machine=machine,
            accelerator=run.accelerator,
            memory_mib=self.memory_mib(run),
            vcpus=self.vcpus_in(run),
            extra=(*properties, *run.arguments, *handling.arguments(local), *self.arguments),
            plugged=self.is_plugged,
            mutant=run.mutant,
        )

    def rate_in(self, run: SuiteParameters, packets: int) -> float:
        """Packets/s of the measured stream: its share, or as many as are needed to reach the policy's number in time.

        :param packets: that the policy requires.
        """
        return max(run.rate * self.rate_share, min(run.rate, packets / LONGEST_AFTER_S))

    def machine_in(self, run: SuiteParameters) -> str:
        without_ports = "pc" if "q35" in run.machine else run.machine
        return self.machine or (without_ports if self.is_plugged or self.pluggable else run.machine)

    def vcpus_in(self, run: SuiteParameters) -> int:
        return max(self.vcpus, run.vcpus)

    @property
    def is_plugged(self) -> bool:
        """Whether netdevs and NICs are added by QMP before the guest runs."""
        return self.plugged or self.mechanism.handling.plugged

    def memory_mib(self, run: SuiteParameters) -> int:
        """The run's memory, or what the guest needs; in both cases more for each further NIC."""
        netdevs = self.netdevs_in(run)
        per_pair, further = mib_per_queue_pair(run.nic_properties), sum(netdev.queues for netdev in netdevs[1:])
        if run.memory is not None:
            return run.memory + per_pair * further
        extra = (per_pair - MIB_PER_QUEUE_PAIR) * netdevs[0].queues
        return MEMORY_MIB + self.more_mib + extra + per_pair * further + MIB_PER_VCPU * (self.vcpus_in(run) - 1)
