/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "channels.h"

#include <errno.h>

#include "clock.h"
#include "ethtool.h"
#include "loop.h"

static struct {
    struct watch timer;
    struct toggle settings;
    uint64_t changes, failures;
    int last_errno;
    bool opened, active;
} state;

static void timer_ready(void *self, uint32_t events)
{
    const struct toggle *settings = &state.settings;
    uint32_t pairs = state.changes % 2 ? settings->low : settings->high;

    (void)self;
    (void)events;
    timer_expired(&state.timer);
    if (!state.active)
        return;
    if (ethtool_set_channels(settings->device, pairs) < 0) {
        state.failures++;
        state.last_errno = errno;
    }
    state.changes++;
    timer_set(&state.timer, monotonic_ns() + settings->period_ms * NS_PER_MS);
}

int channels_toggle(const struct toggle *settings)
{
    if (!state.opened) {
        state.timer = (struct watch){.ready = timer_ready};
        if (timer_open(&state.timer) < 0)
            return -1;
        state.opened = true;
    }
    state.settings = *settings;
    state.changes = state.failures = 0;
    state.last_errno = 0;
    state.active = true;
    timer_set(&state.timer, monotonic_ns() + NS_PER_MS);
    return 0;
}

void channels_stop(void)
{
    state.active = false;
    if (state.opened)
        timer_set(&state.timer, 0);
}

void channels_report(struct output *out)
{
    uint32_t used = 0, possible = 0;

    if (state.opened)
        ethtool_get_channels(state.settings.device, &used, &possible);
    json_count(out, "changes", state.changes);
    json_count(out, "failures", state.failures);
    json_number(out, "last_errno", state.last_errno);
    json_count(out, "channels", used);
}
