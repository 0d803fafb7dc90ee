/* Preloaded into one process: the wall clock, moved by as many seconds as the file FAULTS_CLOCK says at that moment.
   What measures durations (CLOCK_MONOTONIC) stays as it is, as it does when an administrator sets the time. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static int (*system_clock)(clockid_t, struct timespec *);
static volatile int64_t *offset;

__attribute__((constructor)) static void prepare(void) {
    int file = open(getenv("FAULTS_CLOCK"), O_RDONLY);
    system_clock = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    offset = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
}

int clock_gettime(clockid_t which, struct timespec *now) {
    int result = system_clock(which, now);
    if (which == CLOCK_REALTIME && offset != MAP_FAILED)
        now->tv_sec += *offset;
    return result;
}
