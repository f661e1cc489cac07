/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control port: lines in, lines and bytes out.
 *
 *   request    \n <id> <command> [<key>=<value> ...] \n
 *   answer     \n {"id":"<id>","ok":true,...} \n [<payload>]
 *
 * A live update replaces the peer, and bytes may be lost in both directions. Therefore each side begins with a line
 * end, which ends a damaged line; an answer has the request's id; a new request drops the rest of the last answer, the
 * same request again does not.
 */
#ifndef PORT_H
#define PORT_H

#include <stddef.h>

#include "json.h"

enum {
    PORT_LINE = 2048,        /* bytes of the longest request */
    PORT_ANSWER = 1 << 20,   /* bytes of the longest answer with its payload */
};

/* Answers one request. `line` may be modified. */
typedef void (*port_handler)(char *line, struct output *answer);

/* Take over an open descriptor. Returns 0, or -1 with errno. */
int port_open(int fd, port_handler handler);

#endif
