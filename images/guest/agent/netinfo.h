/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the guest sees of its NICs and its IP stack, as JSON. */
#ifndef NETINFO_H
#define NETINFO_H

#include "json.h"
#include "request.h"

void netinfo_report(struct request *request, struct output *out);
/* The first line of a file without its end, or "" when it cannot be read. */
void read_line(const char *path, char *line, size_t size);

#endif
