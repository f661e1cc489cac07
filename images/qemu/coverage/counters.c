/*
 * Counters of gcc's profiling in a file that is shared by all processes of a
 * case: what a process counted is there also when it was killed.
 *
 * CPRLIB_COVERAGE names the file.  With CPRLIB_COVERAGE_DUMP, a folder, the
 * program writes the counters of the file as .gcda files for gcov(1), and ends.
 *
 * GCC manual: -fprofile-info-section, "Profiling and Test Coverage in
 * Freestanding Environments".
 */
#include <fcntl.h>
#include <gcov.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* By counters.ld */
extern char cprlib_counters_start[], cprlib_counters_end[];
extern const struct gcov_info *const cprlib_gcov_info_start[];
extern const struct gcov_info *const cprlib_gcov_info_end[];

static FILE *output;

static void fail(const char *what)
{
    perror(what);
    _exit(1);
}

static void begin_file(const char *name, void *folder)
{
    char path[PATH_MAX];
    const char *base = strrchr(name, '/');

    snprintf(path, sizeof(path), "%s/%s", (char *)folder,
             base ? base + 1 : name);
    output = fopen(path, "wb");
    if (!output) {
        fail(path);
    }
}

static void write_part(const void *data, unsigned length, void *folder)
{
    if (fwrite(data, 1, length, output) != length) {
        fail(folder);
    }
}

static void *allocate(unsigned length, void *folder)
{
    return malloc(length);
}

static void write_all(char *folder)
{
    const struct gcov_info *const *info;

    for (info = cprlib_gcov_info_start; info < cprlib_gcov_info_end; info++) {
        __gcov_info_to_gcda(*info, begin_file, write_part, allocate, folder);
        if (fclose(output)) {
            fail(folder);
        }
    }
    _exit(0);
}

static void *map_file(const char *name, int flags, int sharing, size_t length)
{
    int fd = open(name, flags | O_CLOEXEC, 0600);
    struct stat status;
    void *mapped = MAP_FAILED;

    if (fd >= 0 && flags != O_RDONLY && ftruncate(fd, length) < 0) {
        return MAP_FAILED;
    }
    if (fd >= 0 && fstat(fd, &status) == 0 && status.st_size == length) {
        mapped = mmap(cprlib_counters_start, length, PROT_READ | PROT_WRITE,
                      MAP_FIXED | sharing, fd, 0);
        close(fd);
    }
    return mapped;
}

/* Before any other constructor: what is counted before is lost */
__attribute__((constructor(101))) static void share_counters(void)
{
    char *name = getenv("CPRLIB_COVERAGE");
    char *folder = getenv("CPRLIB_COVERAGE_DUMP");
    size_t length = cprlib_counters_end - cprlib_counters_start;

    if (name && folder) {
        if (map_file(name, O_RDONLY, MAP_PRIVATE, length) == MAP_FAILED) {
            fail(name);
        }
        write_all(folder);
    } else if (name) {
        /* May fail: some tests run this QEMU without rights to the folder */
        map_file(name, O_RDWR | O_CREAT, MAP_SHARED, length);
    }
}
