/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The commands of the control port; see images/guest/README.md. */
#ifndef CONTROL_H
#define CONTROL_H

#include "json.h"

/* A port_handler. */
void control_handle(char *line, struct output *answer);

#endif
