/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "control.h"

#include <errno.h>
#include <string.h>
#include <sys/utsname.h>

#include "broken_ring.h"
#include "channels.h"
#include "clock.h"
#include "crc32.h"
#include "ethtool.h"
#include "files.h"
#include "filter.h"
#include "interface.h"
#include "lifecycle.h"
#include "netinfo.h"
#include "port.h"
#include "reflector.h"
#include "request.h"
#include "rss.h"
#include "sender.h"
#include "stamp.h"
#include "tcp.h"

enum { HEAD_ROOM = 512 }; /* bytes of an answer before its payload */

static void clocks(struct output *out)
{
    json_count(out, "realtime_ns", realtime_ns());
    json_count(out, "monotonic_ns", monotonic_ns());
    json_count(out, "boottime_ns", clock_ns(CLOCK_BOOTTIME));
}

static void ping(struct request *request, struct output *out)
{
    (void)request;
    clocks(out);
}

static void identity(struct request *request, struct output *out)
{
    struct utsname names;
    char boot[64];

    (void)request;
    uname(&names);
    clocks(out);
    json_string(out, "kernel", names.release);
    read_line("/proc/sys/kernel/random/boot_id", boot, sizeof(boot));
    json_string(out, "boot_id", boot);
}

static void netinfo(struct request *request, struct output *out)
{
    (void)request;
    netinfo_report(out);
}

static void set_channels(struct request *request, struct output *out)
{
    const char *device = request_text(request, "device");
    uint32_t pairs = (uint32_t)request_number(request, "pairs", 1, 65535, 1), used, possible;

    if (*request->error)
        return;
    if (ethtool_set_channels(device, pairs) < 0)
        request_fail(request, "set %u channels of %.16s: %s", pairs, device, strerror(errno));
    ethtool_get_channels(device, &used, &possible);
    json_count(out, "channels", used);
}

static void set_rings(struct request *request, struct output *out)
{
    const char *device = request_text(request, "device");
    uint32_t rx = (uint32_t)request_number(request, "rx", 1, 65535, 0);
    uint32_t tx = (uint32_t)request_number(request, "tx", 1, 65535, 0);

    (void)out;
    if (!*request->error && ethtool_set_rings(device, rx, tx) < 0)
        request_fail(request, "set the rings of %.16s to %u and %u: %s", device, rx, tx, strerror(errno));
}

static void toggle_channels(struct request *request, struct output *out)
{
    struct toggle toggle = {
        .low = (uint32_t)request_number(request, "low", 1, 65535, 1),
        .high = (uint32_t)request_number(request, "high", 1, 65535, 1),
        .period_ms = (uint32_t)request_number(request, "period_ms", 1, 60000, 50),
    };
    const char *device = request_text(request, "device");

    if (*request->error)
        return;
    strncpy(toggle.device, device, sizeof(toggle.device) - 1);
    if (channels_toggle(&toggle) < 0)
        request_fail(request, "start a timer: %s", strerror(errno));
    channels_report(out);
}

static void toggle_stop(struct request *request, struct output *out)
{
    (void)request;
    channels_stop();
    channels_report(out);
}

static void toggle_status(struct request *request, struct output *out)
{
    (void)request;
    channels_report(out);
}

static void reflector(struct request *request, struct output *out)
{
    (void)request;
    reflector_report(out);
}

static void reflector_forget(struct request *request, struct output *out)
{
    (void)request;
    (void)out;
    reflector_reset();
}

static void pause_reflector(struct request *request, struct output *out)
{
    bool paused = request_number(request, "paused", 0, 1, 1);
    uint32_t buffer = (uint32_t)request_number(request, "receive_buffer", 0, INT32_MAX / 2, 0);

    (void)out;
    if (!*request->error && reflector_pause(paused, buffer) < 0)
        request_fail(request, "watch the reflector's sockets: %s", strerror(errno));
}

static void sender(struct request *request, struct output *out)
{
    (void)request;
    sender_report(out);
}

static void sender_begin(struct request *request, struct output *out)
{
    struct stream_settings settings = {
        .source_port = (uint16_t)request_number(request, "source_port", 0, 65535, 0),
        .ssid = (uint16_t)request_number(request, "ssid", 0, 65535, 0),
        .rate = (uint32_t)request_number(request, "rate", 1, 100000, 100),
        .count = (uint32_t)request_number(request, "count", 0, UINT32_MAX, 0),
        .size = (uint32_t)request_number(request, "size", STAMP_SIZE, STAMP_MAX_SIZE, STAMP_SIZE),
        .dscp = (uint8_t)request_number(request, "dscp", 0, 63, 0),
    };
    uint16_t port = (uint16_t)request_number(request, "port", 1, 65535, STAMP_PORT);
    const char *destination = request_text(request, "destination"), *reason = "";
    int stream;

    if (!*request->error && !address_parse(&settings.destination, destination, port))
        request_fail(request, "no address: %.64s", destination);
    if (*request->error)
        return;
    stream = sender_start(&settings, &reason);
    if (stream < 0)
        request_fail(request, "start a stream to %.64s: %.40s", destination, reason);
    json_number(out, "stream", stream);
}

static void sender_end(struct request *request, struct output *out)
{
    (void)out;
    if (!sender_stop((unsigned)request_number(request, "stream", 0, 1000, 0)))
        request_fail(request, "no such stream");
}

static void sender_forget(struct request *request, struct output *out)
{
    (void)request;
    (void)out;
    sender_reset();
}

/* The records of a log from `from` on, as many as fit, behind the answer. */
static const void *log_part(struct request *request, struct output *out, size_t *length)
{
    const char *name = request_text(request, "of");
    const struct record_log *log = !strcmp(name, "sender") ? sender_log() : reflector_log();
    uint64_t fitting = (PORT_ANSWER - HEAD_ROOM) / sizeof(struct record);
    uint64_t from = request_number(request, "from", 0, UINT32_MAX, 0);
    uint64_t most = request_number(request, "most", 1, fitting, fitting);
    uint64_t left = from < log->count ? log->count - from : 0, count = left < most ? left : most;

    if (strcmp(name, "sender") != 0 && strcmp(name, "reflector") != 0)
        request_fail(request, "of=%.20s is neither reflector nor sender", name);
    *length = count * sizeof(struct record);
    json_count(out, "records", count);
    json_count(out, "record_size", sizeof(struct record));
    json_count(out, "total", log->count);
    json_count(out, "overflow", log->overflow);
    return log->records + (count ? from : 0);
}

static void vlan(struct request *request, struct output *out)
{
    (void)out;
    filter_vlan(request);
}

static void multicast(struct request *request, struct output *out)
{
    (void)out;
    filter_address(request);
}

static void interface(struct request *request, struct output *out)
{
    (void)out;
    interface_set(request);
}

static void feature(struct request *request, struct output *out)
{
    (void)out;
    interface_feature(request);
}

static void defer(struct request *request, struct output *out)
{
    (void)out;
    interface_defer(request);
}

static void bind_driver(struct request *request, struct output *out)
{
    (void)out;
    lifecycle_bind(request);
}

static void end_broken_ring(struct request *request, struct output *out)
{
    (void)out;
    broken_ring_end(request);
}

static void configure(struct request *request, struct output *out)
{
    (void)out;
    lifecycle_configure(request);
}

static void change_rss(struct request *request, struct output *out)
{
    (void)out;
    rss_set(request);
}

static void restart(struct request *request, struct output *out)
{
    (void)out;
    lifecycle_reboot(request);
}

static void suspend(struct request *request, struct output *out)
{
    (void)out;
    lifecycle_suspend(request);
}

static void set_alarm(struct request *request, struct output *out)
{
    (void)out;
    lifecycle_set_alarm(request);
}

static void power_off(struct request *request, struct output *out)
{
    (void)out;
    lifecycle_power_off(request);
}

static const struct {
    const char *name;
    void (*run)(struct request *request, struct output *out);
} commands[] = {
    {"ping", ping},
    {"identity", identity},
    {"netinfo", netinfo},
    {"set-channels", set_channels},
    {"set-rings", set_rings},
    {"toggle-start", toggle_channels},
    {"toggle-stop", toggle_stop},
    {"toggle-status", toggle_status},
    {"reflector", reflector},
    {"reflector-reset", reflector_forget},
    {"reflector-pause", pause_reflector},
    {"sender", sender},
    {"sender-start", sender_begin},
    {"sender-stop", sender_end},
    {"sender-reset", sender_forget},
    {"vlan", vlan},
    {"filter", multicast},
    {"interface", interface},
    {"feature", feature},
    {"defer", defer},
    {"unbind", lifecycle_unbind},
    {"ring-break", broken_ring_make},
    {"ring-kick", broken_ring_kick},
    {"ring-end", end_broken_ring},
    {"bind", bind_driver},
    {"configure", configure},
    {"rss", rss_report},
    {"rss-set", change_rss},
    {"tcp-start", tcp_start},
    {"tcp-stop", tcp_stop},
    {"tcp", tcp_report},
    {"tcp-reset", tcp_reset},
    {"reboot", restart},
    {"suspend", suspend},
    {"poweroff", power_off},
    {"alarm", set_alarm},
};

static void begin(const struct request *request, struct output *out)
{
    out->used = 0;
    out->overflow = false;
    output_raw(out, "\n", 1);
    json_open(out, NULL, '{');
    json_string(out, "id", request->id);
}

static void failed(const struct request *request, struct output *out, const char *error)
{
    begin(request, out);
    json_bool(out, "ok", false);
    json_string(out, "error", error);
    json_close(out, '}');
    output_raw(out, "\n", 1);
}

void control_handle(char *line, struct output *out)
{
    const void *payload = NULL;
    struct request request;
    size_t length = 0;
    bool known = false;

    if (!request_parse(&request, line))
        return; /* the rest of a damaged line: no request waits for it */
    begin(&request, out);
    json_bool(out, "ok", true);
    if (!strcmp(request.command, "log")) {
        known = true;
        payload = log_part(&request, out, &length);
    } else if (!strcmp(request.command, "files")) {
        known = true;
        payload = files_read(&request, out, &length);
    }
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]) && !known; i++)
        if (!strcmp(request.command, commands[i].name)) {
            known = true;
            commands[i].run(&request, out);
        }
    if (!known)
        request_fail(&request, "unknown command %.40s", request.command);
    json_count(out, "payload", length);
    json_count(out, "crc32", crc32(0, payload, length));
    json_close(out, '}');
    output_raw(out, "\n", 1);
    if (payload)
        output_raw(out, payload, length);
    if (out->overflow)
        request_fail(&request, "the answer is longer than %d bytes", PORT_ANSWER);
    if (*request.error)
        failed(&request, out, request.error);
}
