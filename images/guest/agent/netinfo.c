/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "netinfo.h"

#include <dirent.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ethtool.h"
#include "queue_packets.h"

enum { LINE = 1024, PATH = 300 };

void read_line(const char *path, char *line, size_t size)
{
    FILE *file = fopen(path, "re");

    line[0] = '\0';
    if (!file)
        return;
    if (!fgets(line, (int)size, file))
        line[0] = '\0';
    line[strcspn(line, "\n")] = '\0';
    fclose(file);
}

static void device_file(char *line, const char *device, const char *name)
{
    char path[PATH];

    snprintf(path, sizeof(path), "/sys/class/net/%s/%s", device, name);
    read_line(path, line, LINE);
}

static void device_number(struct output *out, const char *key, const char *device, const char *name)
{
    char line[LINE];

    device_file(line, device, name);
    json_number(out, key, *line ? strtoll(line, NULL, 0) : -1);
}

static void device_string(struct output *out, const char *key, const char *device, const char *name)
{
    char line[LINE];

    device_file(line, device, name);
    json_string(out, key, line);
}

/* Every file of /sys/class/net/<device>/statistics. */
static void report_counters(struct output *out, const char *device)
{
    char path[PATH];
    struct dirent *entry;
    DIR *folder;

    json_open(out, "counters", '{');
    snprintf(path, sizeof(path), "/sys/class/net/%s/statistics", device);
    folder = opendir(path);
    while (folder && (entry = readdir(folder)))
        if (entry->d_name[0] != '.') {
            char name[PATH];

            snprintf(name, sizeof(name), "statistics/%.200s", entry->d_name);
            device_number(out, entry->d_name, device, name);
        }
    if (folder)
        closedir(folder);
    json_close(out, '}');
}

/* Link-layer multicast addresses of a device: /proc/net/dev_mcast (index name users global address). */
static void report_multicast(struct output *out, const char *device)
{
    FILE *file = fopen("/proc/net/dev_mcast", "re");
    char line[LINE], name[32], address[64];

    json_open(out, "multicast", '[');
    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "%*d %31s %*d %*d %63s", name, address) == 2 && !strcmp(name, device))
            json_string(out, NULL, address);
    if (file)
        fclose(file);
    json_close(out, ']');
}

/* Interrupts of a virtio device by the name of their vector, over all processors: /proc/interrupts has lines
 * "  25:  7  0  PCI-MSIX-0000:00:02.0  1-edge  virtio0-input.0". Without MSI-X the name is "virtio0". */
static void report_interrupts(struct output *out, const char *device)
{
    char path[PATH], target[PATH], *line = NULL; /* with a column for each processor */
    size_t room = 0;
    ssize_t length;
    FILE *file;

    json_open(out, "interrupts", '{');
    snprintf(path, sizeof(path), "/sys/class/net/%s/device", device);
    length = readlink(path, target, sizeof(target) - 1);
    target[length > 0 ? length : 0] = '\0';
    file = length > 0 ? fopen("/proc/interrupts", "re") : NULL;
    while (file && getline(&line, &room, file) >= 0) {
        const char *virtio = strrchr(target, '/');
        char *name, *at = strchr(line, ':'), *end;
        uint64_t sum = 0;

        line[strcspn(line, "\n")] = '\0';
        name = strrchr(line, ' ');
        virtio = virtio ? virtio + 1 : target;
        if (!name || !at || strncmp(name + 1, virtio, strlen(virtio)) != 0)
            continue;
        name += 1 + strlen(virtio);
        if (*name && *name != '-')
            continue; /* virtio10 is not virtio1 */
        for (at++;; at = end) {
            unsigned long long count = strtoull(at, &end, 10);

            if (end == at || (*end != ' ' && *end != '\0'))
                break;
            sum += count;
        }
        json_count(out, *name ? name + 1 : "shared", sum);
    }
    free(line);
    if (file)
        fclose(file);
    json_close(out, '}');
}

static void report_device(struct output *out, const char *device)
{
    json_open(out, NULL, '{');
    json_string(out, "name", device);
    device_string(out, "mac", device, "address");
    device_number(out, "mtu", device, "mtu");
    device_number(out, "flags", device, "flags");
    device_number(out, "carrier", device, "carrier");
    device_number(out, "carrier_changes", device, "carrier_changes");
    device_string(out, "operstate", device, "operstate");
    device_string(out, "virtio_features", device, "device/features"); /* one character a bit, bit 0 first */
    report_counters(out, device);
    ethtool_report(out, device);
    queue_packets_report(out, device);
    report_interrupts(out, device);
    report_multicast(out, device);
    json_close(out, '}');
}

/* Counters of the IP stack that are not 0: of /proc/net/snmp as "Ip.InHdrErrors", of snmp6 as "Ip6InHdrErrors". */
static void report_stack(struct output *out)
{
    FILE *file = fopen("/proc/net/snmp", "re");
    char names[LINE], values[LINE], key[128], *name_state, *value_state;
    long long count;

    json_open(out, "stack", '{');
    while (file && fgets(names, sizeof(names), file) && fgets(values, sizeof(values), file)) {
        char *protocol = strtok_r(names, ": \n", &name_state), *value = strtok_r(values, " \n", &value_state), *name;

        while (protocol && value && (name = strtok_r(NULL, " \n", &name_state)) &&
               (value = strtok_r(NULL, " \n", &value_state))) {
            snprintf(key, sizeof(key), "%.32s.%.64s", protocol, name);
            if (strtoll(value, NULL, 10))
                json_number(out, key, strtoll(value, NULL, 10));
        }
    }
    if (file)
        fclose(file);
    file = fopen("/proc/net/snmp6", "re");
    while (file && fgets(names, sizeof(names), file))
        if (sscanf(names, "%63s %lld", key, &count) == 2 && count)
            json_number(out, key, count);
    if (file)
        fclose(file);
    json_close(out, '}');
}

void netinfo_report(struct request *request, struct output *out)
{
    struct if_nameindex *devices = if_nameindex();

    json_open(out, "nics", '[');
    for (struct if_nameindex *device = devices; device && device->if_index; device++)
        if (strcmp(device->if_name, "lo") != 0)
            report_device(out, device->if_name);
    if (devices)
        if_freenameindex(devices);
    json_close(out, ']');
    report_stack(out);
}
