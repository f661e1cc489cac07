/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "channels.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "ethtool.h"
#include "loop.h"

static struct {
    struct watch timer;
    char device[16];
    uint32_t low, high; /* numbers of queue pairs, used in turn */
    uint32_t period_ms;
    uint64_t changes, failures;
    int last_errno;
    bool active;
} state;

void channels_set(struct request *request, struct output *out)
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

static void timer_ready(void *self, uint32_t events)
{
    timer_expired(&state.timer);
    if (!state.active)
        return;
    if (ethtool_set_channels(state.device, state.changes % 2 ? state.low : state.high) < 0) {
        state.failures++;
        state.last_errno = errno;
    }
    state.changes++;
    timer_set(&state.timer, monotonic_ns() + state.period_ms * NS_PER_MS);
}

void channels_toggle(struct request *request, struct output *out)
{
    const char *device = request_text(request, "device");
    uint32_t low = (uint32_t)request_number(request, "low", 1, 65535, 1);
    uint32_t high = (uint32_t)request_number(request, "high", 1, 65535, 1);
    uint32_t period_ms = (uint32_t)request_number(request, "period_ms", 1, 60000, 50);

    if (*request->error)
        return;
    state.timer.ready = timer_ready;
    if (state.timer.fd <= 0 && timer_open(&state.timer) < 0) {
        request_fail(request, "start a timer: %s", strerror(errno));
        return;
    }
    snprintf(state.device, sizeof(state.device), "%.15s", device);
    state.low = low;
    state.high = high;
    state.period_ms = period_ms;
    state.changes = state.failures = 0;
    state.last_errno = 0;
    state.active = true;
    timer_set(&state.timer, monotonic_ns() + NS_PER_MS);
    channels_report(request, out);
}

void channels_stop(struct request *request, struct output *out)
{
    state.active = false;
    channels_report(request, out);
}

void channels_report(struct request *request, struct output *out)
{
    uint32_t used, possible;

    ethtool_get_channels(state.device, &used, &possible);
    json_count(out, "changes", state.changes);
    json_count(out, "failures", state.failures);
    json_number(out, "last_errno", state.last_errno);
    json_count(out, "channels", used);
}
