/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ethtool.h"

#include <errno.h>
#include <linux/ethtool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "flow_queues.h"
#include "netdevice.h"
#include "rss.h"

/* The names of a set of strings, `count` of them; freed by the caller; NULL when there are none. */
static struct ethtool_gstrings *strings(const char *device, uint32_t set, uint32_t *count)
{
    struct {
        struct ethtool_sset_info info;
        uint32_t length;
    } size = {.info = {.cmd = ETHTOOL_GSSET_INFO, .sset_mask = 1ULL << set}};
    struct ethtool_gstrings *names;

    *count = 0;
    if (device_ethtool(device, &size) < 0 || !size.info.sset_mask || !size.length)
        return NULL;
    names = calloc(1, sizeof(*names) + (size_t)size.length * ETH_GSTRING_LEN);
    if (!names)
        return NULL;
    names->cmd = ETHTOOL_GSTRINGS;
    names->string_set = set;
    names->len = size.length;
    if (device_ethtool(device, names) < 0) {
        free(names);
        return NULL;
    }
    *count = names->len;
    return names;
}

static const char *name_at(const struct ethtool_gstrings *names, uint32_t i, char *name)
{
    snprintf(name, ETH_GSTRING_LEN + 1, "%.*s", ETH_GSTRING_LEN, (const char *)names->data + i * ETH_GSTRING_LEN);
    return name;
}

/* "features": name -> "on", "off", with " [fixed]" when it cannot be changed. */
static void report_features(struct output *out, const char *device)
{
    uint32_t count;
    struct ethtool_gstrings *names = strings(device, ETH_SS_FEATURES, &count);
    uint32_t words = (count + 31) / 32;
    struct ethtool_gfeatures *bits = calloc(1, sizeof(*bits) + words * sizeof(bits->features[0]));
    char name[ETH_GSTRING_LEN + 1];

    json_open(out, "features", '{');
    if (names && bits) {
        bits->cmd = ETHTOOL_GFEATURES;
        bits->size = words;
        if (device_ethtool(device, bits) == 0)
            for (uint32_t i = 0; i < count; i++) {
                const struct ethtool_get_features_block *block = &bits->features[i / 32];
                uint32_t bit = 1u << (i % 32);
                bool on = block->active & bit, fixed = block->never_changed & bit || !(block->available & bit);

                if (!names->data[i * ETH_GSTRING_LEN] || (!on && fixed))
                    continue; /* a feature this device cannot have */
                json_string(out, name_at(names, i, name), on ? (fixed ? "on [fixed]" : "on") : "off");
            }
    }
    json_close(out, '}');
    free(names);
    free(bits);
}

static void report_statistics(struct output *out, const char *device)
{
    uint32_t count;
    struct ethtool_gstrings *names = strings(device, ETH_SS_STATS, &count);
    struct ethtool_stats *values = calloc(1, sizeof(*values) + count * sizeof(values->data[0]));
    char name[ETH_GSTRING_LEN + 1];

    json_open(out, "statistics", '{');
    if (names && values) {
        values->cmd = ETHTOOL_GSTATS;
        values->n_stats = count;
        if (device_ethtool(device, values) == 0)
            for (uint32_t i = 0; i < count && i < values->n_stats; i++)
                json_count(out, name_at(names, i, name), values->data[i]);
    }
    json_close(out, '}');
    free(names);
    free(values);
}

/* Link settings, without the link modes, which a virtual NIC has not. */
static void report_link(struct output *out, const char *device)
{
    struct {
        struct ethtool_link_settings head;
        uint32_t modes[3 * INT8_MAX];
    } link = {.head = {.cmd = ETHTOOL_GLINKSETTINGS}};

    if (device_ethtool(device, &link) < 0 || link.head.link_mode_masks_nwords >= 0)
        return;
    link.head.cmd = ETHTOOL_GLINKSETTINGS;
    link.head.link_mode_masks_nwords = (int8_t)-link.head.link_mode_masks_nwords; /* the kernel's number of words */
    if (device_ethtool(device, &link) < 0)
        return;
    json_count(out, "speed", link.head.speed);
    json_count(out, "duplex", link.head.duplex);
    json_count(out, "port", link.head.port);
    json_count(out, "autoneg", link.head.autoneg);
}

static void report_coalescing(struct output *out, const char *device)
{
    struct ethtool_coalesce c = {.cmd = ETHTOOL_GCOALESCE};

    if (device_ethtool(device, &c) < 0)
        return;
    json_count(out, "rx_usecs", c.rx_coalesce_usecs);
    json_count(out, "rx_frames", c.rx_max_coalesced_frames);
    json_count(out, "tx_usecs", c.tx_coalesce_usecs);
    json_count(out, "tx_frames", c.tx_max_coalesced_frames);
    json_count(out, "adaptive_rx", c.use_adaptive_rx_coalesce);
    json_count(out, "adaptive_tx", c.use_adaptive_tx_coalesce);
}

/* "settings": what ethtool -g, -l, -c and the command without an option show, as numbers. */
static void report_settings(struct output *out, const char *device)
{
    struct ethtool_ringparam ring = {.cmd = ETHTOOL_GRINGPARAM};
    struct ethtool_channels channels = {.cmd = ETHTOOL_GCHANNELS};
    struct ethtool_value link = {.cmd = ETHTOOL_GLINK};
    uint32_t flows[] = {TCP_V4_FLOW, UDP_V4_FLOW, TCP_V6_FLOW, UDP_V6_FLOW, IPV4_FLOW, IPV6_FLOW};

    json_open(out, "settings", '{');
    if (device_ethtool(device, &ring) == 0) {
        json_count(out, "rx_ring", ring.rx_pending);
        json_count(out, "rx_ring_max", ring.rx_max_pending);
        json_count(out, "tx_ring", ring.tx_pending);
        json_count(out, "tx_ring_max", ring.tx_max_pending);
    }
    if (device_ethtool(device, &channels) == 0) {
        json_count(out, "combined", channels.combined_count);
        json_count(out, "combined_max", channels.max_combined);
    }
    if (device_ethtool(device, &link) == 0)
        json_count(out, "link", link.data);
    report_link(out, device);
    report_coalescing(out, device);
    for (size_t i = 0; i < sizeof(flows) / sizeof(flows[0]); i++) {
        struct ethtool_rxnfc hash = {.cmd = ETHTOOL_GRXFH, .flow_type = flows[i]};
        char name[32];

        snprintf(name, sizeof(name), "hash_fields_%u", flows[i]);
        if (device_ethtool(device, &hash) == 0)
            json_count(out, name, hash.data);
    }
    json_close(out, '}');
}

void ethtool_get_channels(const char *device, uint32_t *used, uint32_t *possible)
{
    struct ethtool_channels channels = {.cmd = ETHTOOL_GCHANNELS};

    *used = *possible = 0;
    if (device_ethtool(device, &channels) == 0) {
        *used = channels.combined_count;
        *possible = channels.max_combined;
    }
}

int ethtool_set_channels(const char *device, uint32_t pairs)
{
    struct ethtool_channels channels = {.cmd = ETHTOOL_GCHANNELS};

    if (device_ethtool(device, &channels) < 0)
        return -1;
    channels.cmd = ETHTOOL_SCHANNELS;
    channels.combined_count = pairs;
    if (device_ethtool(device, &channels) < 0)
        return -1;
    flow_queues_keep(device);
    return 0;
}

int ethtool_set_feature(const char *device, const char *feature, bool on)
{
    uint32_t count, i = 0;
    struct ethtool_gstrings *names = strings(device, ETH_SS_FEATURES, &count);
    uint32_t words = (count + 31) / 32;
    struct ethtool_sfeatures *bits = calloc(1, sizeof(*bits) + words * sizeof(bits->features[0]));
    int result = -1;

    errno = ENODEV;
    if (names && bits) {
        while (i < count && strncmp(feature, (const char *)names->data + i * ETH_GSTRING_LEN, ETH_GSTRING_LEN))
            i++;
        errno = ENOENT;
        if (i < count) {
            bits->cmd = ETHTOOL_SFEATURES;
            bits->size = words;
            bits->features[i / 32].valid = 1u << (i % 32);
            bits->features[i / 32].requested = on ? 1u << (i % 32) : 0;
            result = device_ethtool(device, bits);
            if (result > 0) { /* ETHTOOL_F_*: not done, or only recorded as requested */
                errno = EOPNOTSUPP;
                result = -1;
            }
        }
    }
    free(names);
    free(bits);
    return result;
}

void ethtool_report(struct output *out, const char *device)
{
    struct ethtool_drvinfo driver = {.cmd = ETHTOOL_GDRVINFO};
    struct {
        struct ethtool_perm_addr head;
        uint8_t address[6];
    } permanent = {.head = {.cmd = ETHTOOL_GPERMADDR, .size = 6}};
    uint32_t used, possible;
    char mac[18];

    device_ethtool(device, &driver);
    json_string(out, "driver", driver.driver);
    if (device_ethtool(device, &permanent) == 0) {
        const uint8_t *a = permanent.address;

        snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", a[0], a[1], a[2], a[3], a[4], a[5]);
        json_string(out, "permanent_mac", mac);
    }
    ethtool_get_channels(device, &used, &possible);
    json_count(out, "channels", used);
    json_count(out, "channels_max", possible);
    report_features(out, device);
    report_settings(out, device);
    rss_member(out, device);
    report_statistics(out, device);
}
