/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "port.h"

#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "loop.h"

enum { WRITE_PIECE = 32768, WRITES = 4 };

static struct {
    struct watch watch;
    port_handler handler;
    char line[PORT_LINE];
    char answered[PORT_LINE]; /* the last request */
    size_t line_used;
    bool line_too_long;
    char memory[PORT_ANSWER];
    struct output answer;
    size_t written;
} state;

/* Whether the line is the request again whose answer is being written. */
static bool is_repetition(void)
{
    return state.written < state.answer.used && !strcmp(state.line, state.answered);
}

static void take_byte(char byte)
{
    if (byte != '\n') {
        if (state.line_used < PORT_LINE - 1)
            state.line[state.line_used++] = byte;
        else
            state.line_too_long = true;
        return;
    }
    state.line[state.line_used] = '\0';
    if (state.line_used && !state.line_too_long && !is_repetition()) {
        strcpy(state.answered, state.line);
        state.answer.used = 0;
        state.answer.overflow = false;
        state.written = 0;
        state.handler(state.line, &state.answer);
    }
    state.line_used = 0;
    state.line_too_long = false;
}

/* Returns true when there is nothing left to write, or no more can be written now. */
static bool write_some(void)
{
    for (int i = 0; i < WRITES && state.written < state.answer.used; i++) {
        size_t left = state.answer.used - state.written;
        ssize_t count = write(state.watch.fd, state.answer.data + state.written, left < WRITE_PIECE ? left : WRITE_PIECE);

        if (count <= 0)
            return true;
        state.written += (size_t)count;
    }
    return state.written == state.answer.used;
}

/*
 * Edge triggered: a port without a peer reports EPOLLHUP permanently. An edge follows when the peer returns or has
 * read. An unfinished write registers again for its next turn.
 */
static void port_ready(void *self, uint32_t events)
{
    char bytes[1024];
    ssize_t count;

    while ((count = read(state.watch.fd, bytes, sizeof(bytes))) > 0)
        for (ssize_t i = 0; i < count; i++)
            take_byte(bytes[i]);
    if (!write_some()) {
        loop_remove(&state.watch);
        loop_add(&state.watch, EPOLLIN | EPOLLOUT | EPOLLET);
    }
}

int port_open(int fd, port_handler handler)
{
    int flags = fcntl(fd, F_GETFL);

    state.answer = (struct output){.data = state.memory, .size = sizeof(state.memory)};
    state.handler = handler;
    state.watch = (struct watch){.fd = fd, .ready = port_ready};
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -1;
    return loop_add(&state.watch, EPOLLIN | EPOLLOUT | EPOLLET);
}
