/* SPDX-License-Identifier: GPL-2.0-or-later */
/* TCP connections with known content: hashed at both ends (see cprlib/guest/README or images/guest/README.md). */
#ifndef TCP_H
#define TCP_H

#include "json.h"
#include "request.h"

void tcp_start(struct request *request, struct output *out);
void tcp_report(struct request *request, struct output *out);
void tcp_reset(struct request *request, struct output *out);

#endif
