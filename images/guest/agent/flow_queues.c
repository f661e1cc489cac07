/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "flow_queues.h"

#include <glob.h>
#include <stdio.h>
#include <unistd.h>

#include "sysfs.h"

void flow_queues_keep(const char *device)
{
    char pattern[64];
    glob_t found;

    if (sysconf(_SC_NPROCESSORS_CONF) < 2)
        return;
    snprintf(pattern, sizeof(pattern), "/sys/class/net/%.15s/queues/tx-*/xps_cpus", device);
    if (glob(pattern, GLOB_NOSORT, NULL, &found) != 0)
        return;
    for (size_t i = 0; i < found.gl_pathc; i++)
        sysfs_write(found.gl_pathv[i], "0"); /* no processors; refused by a device with one queue, which needs nothing */
    globfree(&found);
}
