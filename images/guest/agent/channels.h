/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Changes the queue pairs in use again and again, for the case "the guest does so while the update runs". */
#ifndef CHANNELS_H
#define CHANNELS_H

#include <stdint.h>

#include "json.h"

struct toggle {
    char device[16];
    uint32_t low, high; /* queue pairs, in turns */
    uint32_t period_ms;
};

/* Start, or go on with other settings; counters begin at 0. Returns 0, or -1 with errno. */
int channels_toggle(const struct toggle *settings);
void channels_stop(void);
void channels_report(struct output *out);

#endif
