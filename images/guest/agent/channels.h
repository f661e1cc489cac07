/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sets the number of queue pairs in use, and alternates it, for updates while the guest changes it. */
#ifndef CHANNELS_H
#define CHANNELS_H

#include "json.h"
#include "request.h"

/* device=eth0 pairs=N: the answer has the number in use. */
void channels_set(struct request *request, struct output *out);
/* device=eth0 low=N high=N period_ms=N: start, or continue with other settings; counters restart at 0. */
void channels_toggle(struct request *request, struct output *out);
void channels_stop(struct request *request, struct output *out);
void channels_report(struct request *request, struct output *out);

#endif
