/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Writes JSON with commas into a bounded buffer. A NULL key is a member of an array. */
#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct output {
    char *data;
    size_t size;
    size_t used;
    bool overflow; /* something did not fit: the whole answer is invalid */
};

void output_raw(struct output *out, const void *data, size_t length);
void json_open(struct output *out, const char *key, char bracket);
void json_close(struct output *out, char bracket);
void json_string(struct output *out, const char *key, const char *value);
void json_number(struct output *out, const char *key, int64_t value);
void json_count(struct output *out, const char *key, uint64_t value);
void json_bool(struct output *out, const char *key, bool value);

#endif
