"""An update keeps registers of devices that the guest has set, also those that its drivers do not use."""

from __future__ import annotations

import fnmatch

from cprlib.evidence.records import Role
from cprlib.guest.agent import AgentConnection
from cprlib.qemu.vmstate import device_state
from cprlib.testing.guest_spec import GuestSpec
from cprlib.testing.live_update_test import LiveUpdateTest
from cprlib.update.hooks import RecordMainChannel

PORTS = (  # address, value, bytes: registers of q35 and pc that no driver uses
    (0x0C, 0, 1),  # 8237 DMA controller, channel 2: address, count, mode and page; its flip-flop stays set
    (0x04, 0x34, 1),
    (0x04, 0x12, 1),
    (0x05, 0x78, 1),
    (0x05, 0x56, 1),
    (0x0B, 0x46, 1),
    (0x81, 0x5A, 1),
    (0x04, 0x77, 1),
    (0x20, 0x0B, 1),  # 8259 interrupt controller: reads return the ISR, special mask mode, IRQ 7 by level
    (0x20, 0x68, 1),
    (0x4D0, 0x80, 1),
    (0x43, 0xB6, 1),  # 8254 timer, channel 2: mode, count, which is latched; then the gate is closed
    (0x42, 0x34, 1),
    (0x42, 0x12, 1),
    (0x43, 0x80, 1),
    (0x61, 0x02, 1),
    (0x70, 0x50, 1),  # a byte of the real-time clock's memory
    (0x71, 0xA5, 1),
    (0x92, 0x12, 1),  # system control port A
    (0xB3, 0x5A, 1),  # status of advanced power management
    (0x3FF, 0x5A, 1),  # scratch register of the first serial port
    (0x510, 0x19, 2),  # selector of the firmware's configuration
    (0x66C, 0x5A, 1),  # messages of the TCO timer, which is on q35 only
    (0x66D, 0xA5, 1),
    (0x703, 0x5A, 1),  # host controller of the SMBus, where SeaBIOS has it: command, address, data
    (0x704, 0xA4, 1),
    (0x705, 0x11, 1),
    (0x706, 0x22, 1),
    (0xCF9, 0x02, 1),  # kind of the next reset
    (0xCF8, 0x80000010, 4),  # address of the configuration space
)
MSRS = {0x20E: 0x12345000, 0x20F: 0xFFFFF000}  # a memory type range that is not enabled: Intel SDM, volume 3, 12.11.2.3
CACHE_LINE, INTERRUPT_LINE = (0x0C, 0x10), (0x3C, 0x5A)  # of every PCI device
SENT = {  # fields of the device state, as fnmatch(3) finds them, and what the guest has set them to
    "cpu#0/env.mtrr_var[[]7]/base": "0000000012345000",
    "cpu#0/env.mtrr_var[[]7]/mask": "00000000fffff000",
    "dma#0/flip_flop": "01",
    "dma#0/regs[[]2]/base[[]0]": "1277",
    "dma#0/regs[[]2]/base[[]1]": "5678",
    "dma#0/regs[[]2]/mode": "46",
    "dma#0/regs[[]2]/page": "5a",
    "fw_cfg#0/cur_entry": "0019",
    "i8254#0/channels[[]2]/count": "00001234",
    "i8254#0/channels[[]2]/count_latched": "03",
    "i8254#0/channels[[]2]/gate": "00",
    "i8259#0/elcr": "80",
    "i8259#0/read_reg_select": "01",
    "i8259#0/special_mask": "01",
    "mc146818rtc#0/cmos_data/050": "a5",
    "mc146818rtc#0/cmos_index": "50",
    "pcspk#0/data_on": "01",
    "port92#0/outport": "12",
    "serial#0/state/scr": "5a",
    "*/apm/apms": "5a",
    "*/rst_cnt": "02",
    "*/smb/smb_addr": "a4",
    "*/smb/smb_cmd": "5a",
    "*/smb/smb_data0": "11",
    "*/smb/smb_data1": "22",
    "*/tco_regs/tco.msg1": "5a",
    "*/tco_regs/tco.msg2": "a5",
    "*/virtio-net#0/virtio/net/allmulti": "01",
    "*/virtio-net#0/virtio/net/promisc": "01",
}
VLAN, UNICAST = 77, "02:00:00:00:01:4d"


class DeviceRegisters(LiveUpdateTest):
    """Mechanism ``cpr``, without vhost."""

    def test_registers_that_the_guest_sets_are_kept(self) -> None:
        """Registers that the guest sets are sent, and sent again by each later QEMU.

        In the other tests most of them have their reset value: a target that does not load them is equal to the source.

        :avocado: tags=mechanism:cpr,mechanism:local,vhost:off,queues:1
        """
        with self.given_guest(GuestSpec(role=Role.CHECKS)) as case:
            recorded = RecordMainChannel()
            set_registers(case.guest.agent)
            case.live_update(hooks=[recorded])
            state = device_state(recorded.stream)
            expected = {path: text for name, text in SENT.items() for path in fnmatch.filter(state, name)}
            found = {path: state[path] for path in expected}
            case.require("has-registers", bool(expected), "the machine has some of these devices", len(expected))
            case.expect_equal("registers-are-sent", found, expected, "fields that are not as the guest has set them")
            case.expect_device_state_kept(recorded.stream)


def set_registers(agent: AgentConnection) -> None:
    """Set registers that no driver uses, and modes and filters of the NIC."""
    agent.add_vlan(VLAN)
    agent.set_interface(promiscuous=True, all_multicast=True)
    agent.add_filter(UNICAST)
    for path in agent.files(["/sys/bus/pci/devices/*/config"]):
        for offset, value in (CACHE_LINE, INTERRUPT_LINE):
            agent.write_file(path, offset, bytes([value]))
    for number, value in MSRS.items():
        agent.write_file("/dev/cpu/0/msr", number, value.to_bytes(8, "little"))
    for address, value, width in PORTS:  # last, because accesses of the configuration space can change 0xCF8
        agent.write_port(address, value, width)
