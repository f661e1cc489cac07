/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "control.h"

#include <string.h>
#include <sys/utsname.h>

#include "broken_ring.h"
#include "channels.h"
#include "clock.h"
#include "crc32.h"
#include "files.h"
#include "filter.h"
#include "interface.h"
#include "lifecycle.h"
#include "netinfo.h"
#include "port.h"
#include "reflector.h"
#include "registers.h"
#include "request.h"
#include "rss.h"
#include "sender.h"
#include "tcp.h"

enum { HEAD_ROOM = 512 }; /* bytes of an answer before its payload */

static void ping(struct request *request, struct output *out)
{
    json_count(out, "realtime_ns", realtime_ns());
    json_count(out, "monotonic_ns", monotonic_ns());
    json_count(out, "boottime_ns", clock_ns(CLOCK_BOOTTIME));
}

static void identity(struct request *request, struct output *out)
{
    struct utsname names;
    char boot[64];

    uname(&names);
    ping(request, out);
    json_string(out, "kernel", names.release);
    read_line("/proc/sys/kernel/random/boot_id", boot, sizeof(boot));
    json_string(out, "boot_id", boot);
}

/* The records of a log from `from` on, as many as fit, behind the answer. */
static void log_part(struct request *request, struct output *out)
{
    const char *name = request_text(request, "of");
    const struct record_log *log = !strcmp(name, "sender") ? sender_log() : reflector_log();
    uint64_t fitting = (PORT_ANSWER - HEAD_ROOM) / sizeof(struct record);
    uint64_t from = request_number(request, "from", 0, UINT32_MAX, 0);
    uint64_t left = from < log->count ? log->count - from : 0, count = left < fitting ? left : fitting;

    if (strcmp(name, "sender") != 0 && strcmp(name, "reflector") != 0)
        request_fail(request, "of=%.20s is neither reflector nor sender", name);
    request->payload = log->records + (count ? from : 0);
    request->payload_length = count * sizeof(struct record);
    json_count(out, "records", count);
    json_count(out, "record_size", sizeof(struct record));
    json_count(out, "total", log->count);
    json_count(out, "overflow", log->overflow);
}

static const struct {
    const char *name;
    void (*run)(struct request *request, struct output *out);
} commands[] = {
    {"ping", ping},
    {"identity", identity},
    {"netinfo", netinfo_report},
    {"files", files_read},
    {"log", log_part},
    {"set-channels", channels_set},
    {"set-rings", interface_set_rings},
    {"toggle-start", channels_toggle},
    {"toggle-stop", channels_stop},
    {"toggle-status", channels_report},
    {"reflector", reflector_report},
    {"reflector-reset", reflector_reset},
    {"reflector-pause", reflector_pause},
    {"sender", sender_report},
    {"sender-start", sender_start},
    {"sender-stop", sender_stop},
    {"sender-reset", sender_reset},
    {"vlan", filter_vlan},
    {"filter", filter_address},
    {"interface", interface_set},
    {"feature", interface_feature},
    {"defer", interface_defer},
    {"unbind", lifecycle_unbind},
    {"bind", lifecycle_bind},
    {"ring-break", broken_ring_make},
    {"ring-kick", broken_ring_kick},
    {"ring-end", broken_ring_end},
    {"write-port", registers_write_port},
    {"write-file", registers_write_file},
    {"configure", lifecycle_configure},
    {"rss", rss_report},
    {"rss-set", rss_set},
    {"tcp-start", tcp_start},
    {"tcp-stop", tcp_stop},
    {"tcp", tcp_report},
    {"tcp-reset", tcp_reset},
    {"reboot", lifecycle_reboot},
    {"suspend", lifecycle_suspend},
    {"poweroff", lifecycle_power_off},
    {"alarm", lifecycle_set_alarm},
};

static void begin(const struct request *request, struct output *out, bool ok)
{
    out->used = 0;
    out->overflow = false;
    output_raw(out, "\n", 1);
    json_open(out, NULL, '{');
    json_string(out, "id", request->id);
    json_bool(out, "ok", ok);
}

static void end(struct output *out)
{
    json_close(out, '}');
    output_raw(out, "\n", 1);
}

void control_handle(char *line, struct output *out)
{
    size_t count = sizeof(commands) / sizeof(commands[0]), i = 0;
    struct request request;

    if (!request_parse(&request, line))
        return; /* the rest of a damaged line: no request waits for it */
    begin(&request, out, true);
    while (i < count && strcmp(request.command, commands[i].name) != 0)
        i++;
    if (i < count)
        commands[i].run(&request, out);
    else
        request_fail(&request, "unknown command %.40s", request.command);
    json_count(out, "payload", request.payload_length);
    json_count(out, "crc32", crc32(0, request.payload, request.payload_length));
    end(out);
    if (request.payload)
        output_raw(out, request.payload, request.payload_length);
    if (out->overflow)
        request_fail(&request, "the answer is longer than %d bytes", PORT_ANSWER);
    if (*request.error) {
        begin(&request, out, false);
        json_string(out, "error", request.error);
        end(out);
    }
}
