"""A wall clock that can be set for one process and whatever it starts, under every library that reads it.

A few lines of C, loaded before the C library (LD_PRELOAD), add a number of seconds from a file to what the kernel says.
Monotonic time stays as it is, as it does when a machine's clock is set.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

SHIFT = "FAULT_CLOCK"
SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile long long *shift;

__attribute__((constructor)) static void look(void) {
    const char *path = getenv("FAULT_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *found = file < 0 ? MAP_FAILED : mmap(0, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
    shift = found == MAP_FAILED ? 0 : found;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(id, now);
    if (!status && shift && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += *shift;
    return status;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (at) *at = found.tv_sec;
    return found.tv_sec;
}
"""


class Clock:
    """Start processes with `environment`, then `step` it as often as wanted."""

    def __init__(self, folder: Path) -> None:
        """Raises LookupError where there is no C compiler."""
        if shutil.which("cc") is None:
            raise LookupError("setting a process's clock needs a C compiler")
        library, source, file = folder / "clock.so", folder / "clock.c", folder / "shift"
        source.write_text(SOURCE)
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
        file.write_bytes(bytes(8))
        with file.open("r+b") as opened:
            self._shift = mmap.mmap(opened.fileno(), 8)
        self.environment = {"LD_PRELOAD": str(library), SHIFT: str(file)}
        self.step(86_400)
        assert abs(self.read() - time.time() - 86_400) < 60, "the clock does not move"
        self.step(0)

    def step(self, seconds: int) -> None:
        """From now on it is so far ahead of the machine's, or behind."""
        self._shift[:] = struct.pack("q", seconds)

    def read(self) -> float:
        """As a process sees it."""
        command = [sys.executable, "-c", "import time; print(time.time())"]
        return float(subprocess.run(command, env=self.environment, capture_output=True, check=True).stdout)
