/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Generated mutants of a QEMU: all are in the program, and it has those that are chosen when it starts.
 *
 * CPRLIB_MUTANT=N,M        numbers of the mutants; 0 or unset: the program is as its authors wrote it
 * CPRLIB_MUTANT_REACHED=F  file to which the numbers of reached mutants are appended, one a line; only of the chosen
 *                          ones, where there are any. Opened for each line, so that QEMU has no further open file.
 *
 * The build defines CPRLIB_MUTANTS, the highest number, before this text. Weak symbols instead of a source file of
 * their own: QEMU's build files stay as they are.
 */
#ifndef CPRLIB_MUTANT_H
#define CPRLIB_MUTANT_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

__attribute__((weak)) bool cprlib_any_chosen;
__attribute__((weak)) bool cprlib_is_chosen[CPRLIB_MUTANTS + 1];
__attribute__((weak)) const char *cprlib_reached_file;
__attribute__((weak)) bool cprlib_is_reached[CPRLIB_MUTANTS + 1];

void cprlib_start(void);
void cprlib_reach(int number);
bool cprlib_mutant(int number);
bool cprlib_condition(int number, bool value);

/* Before main() and its threads; once for each file with mutants, with the same result. */
__attribute__((weak, constructor)) void cprlib_start(void)
{
    const char *numbers = getenv("CPRLIB_MUTANT");
    char *end;

    while (numbers && *numbers) {
        unsigned long number = strtoul(numbers, &end, 10);

        if (number && number <= CPRLIB_MUTANTS) {
            cprlib_is_chosen[number] = cprlib_any_chosen = true;
        }
        numbers = *end ? end + 1 : end;
    }
    cprlib_reached_file = getenv("CPRLIB_MUTANT_REACHED");
}

/* Two threads may both write a number that they reach at the same time. */
__attribute__((weak)) void cprlib_reach(int number)
{
    char line[16];
    int fd, size, error = errno;

    if (!cprlib_reached_file || cprlib_is_reached[number] || (cprlib_any_chosen && !cprlib_is_chosen[number])) {
        return;
    }
    cprlib_is_reached[number] = true;
    size = snprintf(line, sizeof(line), "%d\n", number);
    fd = open(cprlib_reached_file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0) {
        if (write(fd, line, size) != size) {
            cprlib_is_reached[number] = false;
        }
        close(fd);
    }
    errno = error;
}

/* Whether a mutant is chosen. */
__attribute__((weak)) bool cprlib_mutant(int number)
{
    cprlib_reach(number);
    return cprlib_is_chosen[number];
}

/*
 * The value of a condition with three mutants: negated, always true, always false. The second and the third are
 * reached only where they would change the value.
 */
__attribute__((weak)) bool cprlib_condition(int number, bool value)
{
    cprlib_reach(number);
    cprlib_reach(number + (value ? 2 : 1));
    if (cprlib_is_chosen[number]) {
        return !value;
    }
    return cprlib_is_chosen[number + 1] || (value && !cprlib_is_chosen[number + 2]);
}

/* A mutant that swaps two arguments; compiles only where they have one type. */
#define CPRLIB_SWAP(number, one, two) \
    (sizeof(struct { \
        int cprlib_swap_##number : __builtin_types_compatible_p(__typeof__(one), __typeof__(two)) ? 1 : -1; \
    }) && cprlib_mutant(number))

#endif
