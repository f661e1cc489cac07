/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "rss.h"

#include <errno.h>
#include <linux/ethtool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "netdevice.h"

enum { MOST_ENTRIES = 1024, MOST_KEY = 256 };

/* Table and key as the device has them, the table first; freed by the caller; NULL with errno. */
static struct ethtool_rxfh *read_rss(const char *device)
{
    struct ethtool_rxfh size = {.cmd = ETHTOOL_GRSSH}, *found;

    if (device_ethtool(device, &size) < 0)
        return NULL;
    if (size.indir_size > MOST_ENTRIES || size.key_size > MOST_KEY) {
        errno = EMSGSIZE;
        return NULL;
    }
    found = calloc(1, sizeof(*found) + size.indir_size * sizeof(uint32_t) + size.key_size);
    if (!found)
        return NULL;
    *found = size;
    if (device_ethtool(device, found) == 0)
        return found;
    free(found);
    return NULL;
}

static uint8_t *key_of(struct ethtool_rxfh *settings)
{
    return (uint8_t *)&settings->rss_config[settings->indir_size];
}

static void hexadecimal(char *text, const void *data, size_t length)
{
    for (size_t i = 0; i < length; i++)
        snprintf(text + 2 * i, 3, "%02x", ((const uint8_t *)data)[i]);
}

void rss_member(struct output *out, const char *device)
{
    struct ethtool_rxfh *found = read_rss(device);
    char text[16 + 2 * (MOST_ENTRIES * sizeof(uint32_t) + MOST_KEY)] = "";

    if (found) {
        int used = snprintf(text, sizeof(text), "%u ", found->hfunc);

        hexadecimal(text + used, found->rss_config, found->indir_size * sizeof(uint32_t) + found->key_size);
    }
    json_string(out, "rss", text);
    free(found);
}

void rss_report(struct request *request, struct output *out)
{
    const char *device = request_text(request, "device");
    struct ethtool_rxfh *found = *request->error ? NULL : read_rss(device);
    char key[2 * MOST_KEY + 1] = "";

    if (!found) {
        request_fail(request, "read the table of %.16s: %s", device, strerror(errno));
        return;
    }
    hexadecimal(key, key_of(found), found->key_size);
    json_string(out, "key", key);
    json_open(out, "table", '[');
    for (uint32_t i = 0; i < found->indir_size; i++)
        json_count(out, NULL, found->rss_config[i]);
    json_close(out, ']');
    free(found);
}

void rss_set(struct request *request, struct output *out)
{
    const char *device = request_text(request, "device"), *key = request_text(request, "key");
    bool one_queue = request_get(request, "queue") != NULL;
    uint32_t queue = (uint32_t)request_number(request, "queue", 0, 65535, 0);
    struct ethtool_rxfh *settings = *request->error ? NULL : read_rss(device);

    if (!settings) {
        request_fail(request, "read the table of %.16s: %s", device, strerror(errno));
        return;
    }
    if (strlen(key) != 2 * settings->key_size)
        request_fail(request, "key= has %zu digits, not %u", strlen(key), 2 * settings->key_size);
    else
        request_bytes(request, "key", key_of(settings), settings->key_size);
    for (uint32_t i = 0; one_queue && i < settings->indir_size; i++)
        settings->rss_config[i] = queue;
    settings->cmd = ETHTOOL_SRSSH;
    if (!one_queue) { /* indir_size 0: the driver's default; the key follows at once */
        memmove(settings->rss_config, key_of(settings), settings->key_size);
        settings->indir_size = 0;
    }
    if (!*request->error && device_ethtool(device, settings) < 0)
        request_fail(request, "set the table of %.16s: %s", device, strerror(errno));
    free(settings);
}
