/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Alternates the number of queue pairs in use, for updates while the guest changes it. */
#ifndef CHANNELS_H
#define CHANNELS_H

#include <stdint.h>

#include "json.h"

struct toggle {
    char device[16];
    uint32_t low, high; /* numbers of queue pairs, used in turn */
    uint32_t period_ms;
};

/* Start, or continue with other settings; counters restart at 0. Returns 0, or -1 with errno. */
int channels_toggle(const struct toggle *settings);
void channels_stop(void);
void channels_report(struct output *out);

#endif
