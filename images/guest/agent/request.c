/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "request.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ID_LENGTH = 40 };

void request_fail(struct request *request, const char *format, ...)
{
    va_list arguments;

    if (*request->error)
        return;
    va_start(arguments, format);
    vsnprintf(request->error, sizeof(request->error), format, arguments);
    va_end(arguments);
}

bool request_parse(struct request *request, char *line)
{
    char *state, *word = strtok_r(line, " \r", &state);

    memset(request, 0, sizeof(*request));
    if (!word || strlen(word) > ID_LENGTH)
        return false;
    for (const char *c = word; *c; c++)
        if (!isalnum((unsigned char)*c) && *c != '-' && *c != '_' && *c != '.')
            return false;
    request->id = word;
    request->command = strtok_r(NULL, " \r", &state);
    if (!request->command)
        return false;
    while ((word = strtok_r(NULL, " \r", &state))) {
        char *value = strchr(word, '=');

        if (!value || request->count == REQUEST_KEYS) {
            request_fail(request, "no key=value: %.40s", word);
            break;
        }
        *value++ = '\0';
        request->pairs[request->count].key = word;
        request->pairs[request->count++].value = value;
    }
    return true;
}

const char *request_get(const struct request *request, const char *key)
{
    for (unsigned i = 0; i < request->count; i++)
        if (!strcmp(request->pairs[i].key, key))
            return request->pairs[i].value;
    return NULL;
}

uint64_t request_number(struct request *request, const char *key, uint64_t low, uint64_t high, uint64_t fallback)
{
    const char *text = request_get(request, key);
    unsigned long long value;
    char *end;

    if (!text)
        return fallback;
    errno = 0;
    value = strtoull(text, &end, 10);
    if (errno || !isdigit((unsigned char)*text) || *end || value < low || value > high) {
        request_fail(request, "%.20s=%.20s is not between %llu and %llu", key, text, (unsigned long long)low,
                     (unsigned long long)high);
        return fallback;
    }
    return value;
}

const char *request_text(struct request *request, const char *key)
{
    const char *text = request_get(request, key);

    if (text && *text)
        return text;
    request_fail(request, "%.20s= is missing", key);
    return "";
}

size_t request_bytes(struct request *request, const char *key, uint8_t *bytes, size_t most)
{
    const char *text = request_text(request, key);
    size_t digits = strspn(text, "0123456789abcdef");

    if (!digits || text[digits] || digits % 2 || digits / 2 > most) {
        request_fail(request, "%.20s=%.40s is not 1 to %zu bytes in hexadecimal", key, text, most);
        return 0;
    }
    for (size_t i = 0; i < digits / 2; i++)
        sscanf(text + 2 * i, "%2hhx", &bytes[i]);
    return digits / 2;
}
