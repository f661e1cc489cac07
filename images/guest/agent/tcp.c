/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tcp.h"

void tcp_start(struct request *request, struct output *out) { (void)out; request_fail(request, "not there yet"); }
void tcp_report(struct request *request, struct output *out) { (void)out; request_fail(request, "not there yet"); }
void tcp_reset(struct request *request, struct output *out) { (void)out; request_fail(request, "not there yet"); }
