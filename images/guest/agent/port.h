/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control port: lines in, lines and bytes out.
 *
 *   request    \n <id> <command> [<key>=<value> ...] \n
 *   answer     \n {"id":"<id>","ok":true,...} \n [<payload>]
 *
 * The other end may go away at any moment and another one appear (that is what a live update does to it), so
 * bytes may be lost in both directions. Therefore each side begins with a line end, which ends a broken line of
 * the one before; an answer names the request's id; a new request drops what was left of the answer before.
 */
#ifndef PORT_H
#define PORT_H

#include <stddef.h>

#include "json.h"

enum {
    PORT_LINE = 2048,        /* bytes of the longest request */
    PORT_ANSWER = 1 << 20,   /* bytes of the longest answer with its payload */
};

/* Answers one request. `line` may be cut up. */
typedef void (*port_handler)(char *line, struct output *answer);

/* Take over an open descriptor. Returns 0, or -1 with errno. */
int port_open(int fd, port_handler handler);

#endif
