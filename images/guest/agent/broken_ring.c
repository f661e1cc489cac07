/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "broken_ring.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "sysfs.h"

enum { CONFIG = 256, PAGE = 4096, AVAIL = 1024, USED = 2048, FRAME = 3072, SLOTS = 8, TRANSMIT = 1, ANSWER_MS = 50 };

/* The device's registers and the page with the ring, while the NIC is without its driver. */
static struct {
    volatile struct virtio_pci_common_cfg *common;
    volatile uint16_t *notify;
    void *bar;
    size_t length;
    uint8_t *page;
} nic;

/* Stop the device's use of the page, and unmap page and registers. */
static void release(void)
{
    if (nic.common)
        nic.common->device_status = 0;
    if (nic.bar)
        munmap(nic.bar, nic.length);
    if (nic.page)
        munmap(nic.page, PAGE);
    memset(&nic, 0, sizeof(nic));
}

/* A capability of virtio over PCI (VIRTIO 1.2 section 4.1.4) by its type; NULL without one. */
static const struct virtio_pci_cap *find_capability(const uint8_t config[CONFIG], uint8_t type)
{
    for (unsigned at = config[PCI_CAPABILITY_LIST], left = CONFIG; at && at < CONFIG - 20 && left--; at = config[at + 1]) {
        const struct virtio_pci_cap *found = (const void *)(config + at);

        if (found->cap_vndr == PCI_CAP_ID_VNDR && found->cfg_type == type)
            return found;
    }
    return NULL;
}

/* Map the registers, and let the device read and write memory. Returns 0, or -1 with errno. */
static int open_registers(const char *name)
{
    const struct virtio_pci_cap *common, *notify;
    uint8_t config[CONFIG];
    uint16_t command;
    char path[96];
    void *bar;
    bool done;
    int fd;

    snprintf(path, sizeof(path), "/sys/bus/pci/devices/%.32s/config", name);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -1;
    done = read(fd, config, sizeof(config)) == sizeof(config);
    memcpy(&command, config + PCI_COMMAND, sizeof(command));
    command |= PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
    done = done && pwrite(fd, &command, sizeof(command), PCI_COMMAND) == sizeof(command);
    close(fd);
    if (!done)
        return -1;
    common = find_capability(config, VIRTIO_PCI_CAP_COMMON_CFG);
    notify = find_capability(config, VIRTIO_PCI_CAP_NOTIFY_CFG);
    errno = ENODEV;
    if (!common || !notify || common->bar != notify->bar)
        return -1;
    snprintf(path, sizeof(path), "/sys/bus/pci/devices/%.32s/resource%d", name, common->bar);
    fd = open(path, O_RDWR | O_CLOEXEC);
    nic.length = notify->offset + notify->length;
    bar = fd < 0 ? MAP_FAILED : mmap(NULL, nic.length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    if (bar == MAP_FAILED)
        return -1;
    nic.bar = bar;
    nic.common = (void *)((uint8_t *)nic.bar + common->offset);
    nic.common->queue_select = TRANSMIT;
    nic.notify = (void *)((uint8_t *)nic.bar + notify->offset +
                          nic.common->queue_notify_off * ((const struct virtio_pci_notify_cap *)notify)->notify_off_multiplier);
    return 0;
}

/* The address that a device has for the page; 0 with errno when the kernel does not show it. */
static uint64_t page_address(const void *page)
{
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    uint64_t entry = 0;
    ssize_t got = fd < 0 ? -1 : pread(fd, &entry, sizeof(entry), (uintptr_t)page / PAGE * sizeof(entry));

    if (fd >= 0)
        close(fd);
    return got == sizeof(entry) ? (entry & ((1ull << 55) - 1)) * PAGE : 0;
}

/* A ring with one chain, whose only descriptor names a next one that does not exist. Returns 0, or -1 with errno. */
static int make_ring(void)
{
    struct vring_desc *chain;
    struct vring_avail *avail;
    uint64_t address;
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_LOCKED, -1, 0);

    if (page == MAP_FAILED)
        return -1;
    nic.page = page;
    address = page_address(page);
    if (!address)
        return -1;
    chain = (void *)nic.page;
    avail = (void *)(nic.page + AVAIL);
    *chain = (struct vring_desc){address + FRAME, sizeof(struct virtio_net_hdr_v1) + 60, VRING_DESC_F_NEXT, SLOTS};
    avail->idx = 1;
    nic.common->device_status = 0;
    nic.common->device_status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
    nic.common->guest_feature_select = 1;
    nic.common->guest_feature = 1u << (VIRTIO_F_VERSION_1 - 32);
    nic.common->device_status |= VIRTIO_CONFIG_S_FEATURES_OK;
    nic.common->queue_select = TRANSMIT;
    nic.common->queue_size = SLOTS;
    nic.common->queue_desc_lo = (uint32_t)address;
    nic.common->queue_desc_hi = (uint32_t)(address >> 32);
    nic.common->queue_avail_lo = (uint32_t)(address + AVAIL);
    nic.common->queue_avail_hi = (uint32_t)((address + AVAIL) >> 32);
    nic.common->queue_used_lo = (uint32_t)(address + USED);
    nic.common->queue_used_hi = (uint32_t)((address + USED) >> 32);
    nic.common->queue_enable = 1;
    nic.common->device_status |= VIRTIO_CONFIG_S_DRIVER_OK;
    return 0;
}

/* Kick the queue and wait until the device has had time to answer. */
static void kick(void)
{
    const struct timespec wait = {0, ANSWER_MS * (long)NS_PER_MS};

    *nic.notify = TRANSMIT;
    nanosleep(&wait, NULL);
}

void broken_ring_make(struct request *request, struct output *out)
{
    char name[SYSFS_NAME];

    sysfs_unbind(request, out, "pci", "device/..", name);
    if (*request->error)
        return;
    if (open_registers(name) < 0 || make_ring() < 0) {
        request_fail(request, "drive %.32s: %s", name, strerror(errno));
        release();
        return;
    }
    kick();
    ((struct vring_desc *)nic.page)->flags = 0;
    ((struct vring_avail *)(nic.page + AVAIL))->idx = 2; /* the device may have counted the first one */
}

void broken_ring_kick(struct request *request, struct output *out)
{
    if (!nic.common) {
        request_fail(request, "no ring is broken");
        return;
    }
    kick();
    json_bool(out, "needs_reset", nic.common->device_status & VIRTIO_CONFIG_S_NEEDS_RESET);
    json_count(out, "used", ((const struct vring_used *)(nic.page + USED))->idx);
}

void broken_ring_end(struct request *request, struct output *out)
{
    release();
    sysfs_bind(request, "pci");
}
