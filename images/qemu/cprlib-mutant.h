/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Generated mutants of a QEMU: all are in the program, and one is chosen when it starts.
 *
 * CPRLIB_MUTANT=N          number of the mutant; 0 or unset: the program is as its authors wrote it
 * CPRLIB_MUTANT_REACHED=F  file to which the numbers of reached mutants are appended, one a line; of a chosen mutant
 *                          only its own. Opened for each line, so that QEMU has no further open file.
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

__attribute__((weak)) int cprlib_chosen;
__attribute__((weak)) const char *cprlib_reached_file;
__attribute__((weak)) bool cprlib_is_reached[CPRLIB_MUTANTS + 1];

void cprlib_start(void);
void cprlib_reach(int number);
bool cprlib_mutant(int number);
bool cprlib_condition(int number, bool value);

/* Before main() and its threads; once for each file with mutants, with the same result. */
__attribute__((weak, constructor)) void cprlib_start(void)
{
    const char *number = getenv("CPRLIB_MUTANT");

    cprlib_chosen = number ? atoi(number) : 0;
    cprlib_reached_file = getenv("CPRLIB_MUTANT_REACHED");
}

/* Two threads may both write a number that they reach at the same time. */
__attribute__((weak)) void cprlib_reach(int number)
{
    char line[16];
    int fd, size, error = errno;

    if (!cprlib_reached_file || cprlib_is_reached[number] || (cprlib_chosen && cprlib_chosen != number)) {
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
    return cprlib_chosen == number;
}

/*
 * The value of a condition with three mutants: negated, always true, always false. The second and the third are
 * reached only where they would change the value.
 */
__attribute__((weak)) bool cprlib_condition(int number, bool value)
{
    cprlib_reach(number);
    cprlib_reach(number + (value ? 2 : 1));
    switch (cprlib_chosen - number) {
    case 0:
        return !value;
    case 1:
        return true;
    case 2:
        return false;
    default:
        return value;
    }
}

/* A mutant that swaps two arguments; compiles only where they have one type. */
#define CPRLIB_SWAP(number, one, two) \
    (sizeof(struct { \
        int cprlib_swap_##number : __builtin_types_compatible_p(__typeof__(one), __typeof__(two)) ? 1 : -1; \
    }) && cprlib_mutant(number))

#endif
