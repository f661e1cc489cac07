/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Properties that ethtool(8) shows and sets, by SIOCETHTOOL. */
#ifndef ETHTOOL_H
#define ETHTOOL_H

#include <stdbool.h>
#include <stdint.h>

#include "json.h"

/* Members "driver", "permanent_mac", "features", "channels", "settings", "rss" and "statistics" of an open object. */
void ethtool_report(struct output *out, const char *device);
/* Use `pairs` queue pairs (ethtool -L combined). Returns 0, or -1 with errno. */
int ethtool_set_channels(const char *device, uint32_t pairs);
/* Queue pairs in use and possible; 0 and 0 for a device without queue pairs. */
void ethtool_get_channels(const char *device, uint32_t *used, uint32_t *possible);
/* Switch an offload by its name (ethtool -K). Returns 0, or -1 with errno. */
int ethtool_set_feature(const char *device, const char *feature, bool on);

#endif
