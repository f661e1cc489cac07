# Devices of the QEMU under test: what the guest of the suite needs, and no more, so that a build stays short.
# Copied to configs/devices/x86_64-softmmu/ of the source and named with --with-devices-x86_64.

# Machines. Q35 is the default; microvm boots without firmware tables; i440fx has plain PCI.
CONFIG_Q35=y
CONFIG_MICROVM=y
CONFIG_I440FX=y

# Buses and ports.
CONFIG_PCI_DEVICES=y
CONFIG_PCIE_PORT=y
CONFIG_VIRTIO_PCI=y
CONFIG_VIRTIO_MMIO=y

# Devices of the guest: the NIC under test, a disk, consoles, entropy.
CONFIG_VIRTIO_NET=y
CONFIG_VIRTIO_BLK=y
CONFIG_VIRTIO_SERIAL=y
CONFIG_VIRTIO_RNG=y
CONFIG_SERIAL_ISA=y
CONFIG_HPET=y

# Devices that libvirt adds to a guest, and another NIC.
CONFIG_VGA_PCI=y
CONFIG_VIRTIO_BALLOON=y
CONFIG_WDT_IB6300ESB=y
CONFIG_WDT_IB700=y
CONFIG_PVPANIC_ISA=y
CONFIG_USB_XHCI_PCI=y
CONFIG_VMXNET3_PCI=y

# Not used by the suite; QEMU 10.2 refers to them from its ACPI tables and does not link without. 10.0 needs none of them.
CONFIG_CXL=y
CONFIG_PXB=y
CONFIG_CXL_MEM_DEVICE=y
