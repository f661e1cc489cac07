/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Generated mutants of a QEMU: all are in the program, and it has those that are chosen when it starts.
 *
 * CPRLIB_MUTANT=N,M        numbers of the mutants; 0 or unset: the program is as its authors wrote it
 * CPRLIB_MUTANT_REACHED=F  file with a byte for each number, not 0 where the mutant was reached; only of the chosen
 *                          ones, where there are any. Mapped at the start: a process that may open no file, or is
 *                          killed, has its bytes too, and QEMU has no further open file.
 *
 * The build defines CPRLIB_MUTANTS, the highest number, before this text. Weak symbols instead of a source file of
 * their own: QEMU's build files stay as they are.
 */
#ifndef CPRLIB_MUTANT_H
#define CPRLIB_MUTANT_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

__attribute__((weak)) bool cprlib_any_chosen;
__attribute__((weak)) bool cprlib_is_chosen[CPRLIB_MUTANTS + 1];
__attribute__((weak)) bool *cprlib_is_reached; /* NULL without a file that can be written */

void cprlib_start(void);
void cprlib_reach(int number);
bool cprlib_mutant(int number);
bool cprlib_condition(int number, bool value);

/* Before main() and its threads; once for each file with mutants, with the same result. */
__attribute__((weak, constructor)) void cprlib_start(void)
{
    const char *numbers = getenv("CPRLIB_MUTANT"), *file = getenv("CPRLIB_MUTANT_REACHED");
    const size_t size = CPRLIB_MUTANTS + 1;
    void *mapped = MAP_FAILED;
    char *end;
    int fd;

    while (numbers && *numbers) {
        unsigned long number = strtoul(numbers, &end, 10);

        if (number && number <= CPRLIB_MUTANTS) {
            cprlib_is_chosen[number] = cprlib_any_chosen = true;
        }
        numbers = *end ? end + 1 : end;
    }
    fd = file && !cprlib_is_reached ? open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd >= 0) {
        if (ftruncate(fd, size) == 0) { /* an earlier process of the same name left bytes of the same size */
            mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        }
        close(fd);
    }
    if (mapped != MAP_FAILED) {
        cprlib_is_reached = mapped;
    }
}

__attribute__((weak)) void cprlib_reach(int number)
{
    if (cprlib_is_reached && !cprlib_is_reached[number] && (!cprlib_any_chosen || cprlib_is_chosen[number])) {
        cprlib_is_reached[number] = true;
    }
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
