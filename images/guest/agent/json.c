/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "json.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void output_raw(struct output *out, const void *data, size_t length)
{
    if (length > out->size - out->used) {
        out->overflow = true;
        return;
    }
    memcpy(out->data + out->used, data, length);
    out->used += length;
}

static void text(struct output *out, const char *value) { output_raw(out, value, strlen(value)); }

static void quoted(struct output *out, const char *value)
{
    text(out, "\"");
    for (; *value; value++) {
        unsigned char byte = (unsigned char)*value;
        char escaped[8];

        if (byte >= 0x20 && byte < 0x7f && byte != '"' && byte != '\\') {
            output_raw(out, value, 1);
            continue;
        }
        snprintf(escaped, sizeof(escaped), "\\u%04x", byte);
        text(out, escaped);
    }
    text(out, "\"");
}

static void member(struct output *out, const char *key)
{
    char last = out->used ? out->data[out->used - 1] : '{';

    if (last != '{' && last != '[' && last != '\n')
        text(out, ",");
    if (key) {
        quoted(out, key);
        text(out, ":");
    }
}

void json_open(struct output *out, const char *key, char bracket)
{
    member(out, key);
    output_raw(out, &bracket, 1);
}

void json_close(struct output *out, char bracket) { output_raw(out, &bracket, 1); }

void json_string(struct output *out, const char *key, const char *value)
{
    member(out, key);
    quoted(out, value);
}

void json_number(struct output *out, const char *key, int64_t value)
{
    char digits[32];

    member(out, key);
    snprintf(digits, sizeof(digits), "%" PRId64, value);
    text(out, digits);
}

void json_count(struct output *out, const char *key, uint64_t value)
{
    char digits[32];

    member(out, key);
    snprintf(digits, sizeof(digits), "%" PRIu64, value);
    text(out, digits);
}

void json_bool(struct output *out, const char *key, bool value)
{
    member(out, key);
    text(out, value ? "true" : "false");
}
