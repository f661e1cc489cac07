/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's agent: STAMP session-reflector and session-sender, controlled over a virtio-serial port.
 * In the guest it is process 1 (init ends by executing it), so its death is a kernel panic.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "clock.h"
#include "control.h"
#include "ethtool.h"
#include "flow_queues.h"
#include "loop.h"
#include "netinfo.h"
#include "port.h"
#include "reflector.h"
#include "sender.h"
#include "stamp.h"

#define PORT_NAME "org.cprlib.agent"
#define PORTS "/sys/class/virtio-ports"

enum { LOG_RECORDS = 400000, PORT_WAIT_MS = 5000 };

/* The device node of the virtio-serial port with our name, opened; -1 when there is none (yet). */
static int open_named_port(void)
{
    char path[300], name[64];
    struct dirent *entry;
    DIR *folder = opendir(PORTS);
    int fd = -1;

    while (folder && fd < 0 && (entry = readdir(folder))) {
        snprintf(path, sizeof(path), PORTS "/%.100s/name", entry->d_name);
        read_line(path, name, sizeof(name));
        if (strcmp(name, PORT_NAME) != 0)
            continue;
        snprintf(path, sizeof(path), "/dev/%.100s", entry->d_name);
        fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    }
    if (folder)
        closedir(folder);
    return fd;
}

/* Ports appear some time after their device: QEMU sends their names in messages. */
static int wait_for_port(void)
{
    const struct timespec pause = {.tv_nsec = 5 * (long)NS_PER_MS};
    int fd;

    for (int waited = 0; (fd = open_named_port()) < 0 && waited < PORT_WAIT_MS; waited += 5)
        nanosleep(&pause, NULL);
    return fd;
}

/* Use the requested number on every NIC, or all it has; 0: leave it to the driver. */
static void set_up_queues(uint32_t pairs)
{
    struct if_nameindex *devices = if_nameindex();

    for (struct if_nameindex *device = devices; device && device->if_index; device++) {
        uint32_t used, possible, number;

        ethtool_get_channels(device->if_name, &used, &possible);
        flow_queues_keep(device->if_name);
        number = pairs < possible ? pairs : possible;
        if (number && number != used && ethtool_set_channels(device->if_name, number) < 0)
            fprintf(stderr, "agent: use %u queue pairs of %s: %s\n", number, device->if_name, strerror(errno));
    }
    if (devices)
        if_freenameindex(devices);
}

static void must(int result, const char *what)
{
    if (result >= 0)
        return;
    fprintf(stderr, "agent: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint32_t number(const char *text, uint32_t most)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);

    if (!*text || *end || value > most) {
        fprintf(stderr, "agent: not a number up to %u: %s\n", most, text);
        exit(2);
    }
    return (uint32_t)value;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"fd", required_argument, NULL, 'f'},  /* the control port, already open */
        {"udp", required_argument, NULL, 'u'}, /* the reflector's port */
        {"log", required_argument, NULL, 'l'}, /* records in each of the two logs */
        {"queue-pairs", required_argument, NULL, 'q'},
        {NULL, 0, NULL, 0},
    };
    uint32_t udp = STAMP_PORT, records = LOG_RECORDS, pairs = 0;
    int fd = -1, option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
        switch (option) {
        case 'f':
            fd = (int)number(optarg, 1 << 20);
            break;
        case 'u':
            udp = number(optarg, 65535);
            break;
        case 'l':
            records = number(optarg, 100000000);
            break;
        case 'q':
            pairs = number(optarg, 65535);
            break;
        default:
            return 2;
        }
    set_up_queues(pairs);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_IGN); /* orphans are reaped by the kernel */
    prctl(PR_SET_TIMERSLACK, 1);
    loop_open();
    must(sender_open(records), "memory for the sender's log");
    must(reflector_open((uint16_t)udp, records), "open the reflector's sockets");
    if (fd < 0)
        fd = wait_for_port();
    if (fd >= 0)
        must(port_open(fd, control_handle), "use the control port");
    printf("cprlib: ready uptime_ms=%llu control=%s\n", (unsigned long long)(clock_ns(CLOCK_BOOTTIME) / NS_PER_MS),
           fd >= 0 ? "yes" : "no");
    fflush(stdout);
    loop_run();
}
