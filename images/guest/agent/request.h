/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A request's parts: id, command, key=value pairs. */
#ifndef REQUEST_H
#define REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { REQUEST_KEYS = 16 };

struct request {
    const char *id;
    const char *command;
    struct {
        const char *key, *value;
    } pairs[REQUEST_KEYS];
    unsigned count;
    const void *payload; /* bytes behind the answer, valid until the next request; NULL without */
    size_t payload_length;
    char error[128]; /* the first error; "" without one */
};

/* Split a line in place. Returns false when it has no id and command and cannot be answered. */
bool request_parse(struct request *request, char *line);
/* The value of a key, or NULL. */
const char *request_get(const struct request *request, const char *key);
/* A number between low and high; `fallback` when the key is absent; an invalid one sets request->error. */
uint64_t request_number(struct request *request, const char *key, uint64_t low, uint64_t high, uint64_t fallback);
/* A required value; "" and request->error when it is absent. */
const char *request_text(struct request *request, const char *key);
/* Bytes as a required value has them, in hexadecimal; returns how many, 1 to most; 0 and request->error for another. */
size_t request_bytes(struct request *request, const char *key, uint8_t *bytes, size_t most);
/* Set the error, unless there is one already. */
void request_fail(struct request *request, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
