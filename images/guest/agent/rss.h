/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Receive-side scaling: the hash key and the indirection table of a NIC (ethtool -x, -X). */
#ifndef RSS_H
#define RSS_H

#include "json.h"
#include "request.h"

/* Member "rss" of an open object: hash function, then table and key as they are in memory, hexadecimal; "" without RSS. */
void rss_member(struct output *out, const char *device);
/* device=eth0: "key" in hexadecimal and "table", the queue of each entry. */
void rss_report(struct request *request, struct output *out);
/* device=eth0 key=HEX queue=N: the key, and this queue in every entry; without queue= the driver's default table. */
void rss_set(struct request *request, struct output *out);

#endif
