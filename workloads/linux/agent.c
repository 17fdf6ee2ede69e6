// SPDX-License-Identifier: BSD-3-Clause
//
// The program that /init starts in the simulated machine. It asks gem5 for a checkpoint, so that the boot is simulated
// once; after that, or after a restore, it asks gem5 for an archive of the host (a script and the files that it needs),
// unpacks it into /work, runs the script, hands what it prints to gem5, and ends the simulation with its exit status.
//
// gem5 reads and writes the agent's memory behind Linux's back and stops when a page is not there, so every buffer is
// touched before.
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char kFolder[] = "/work";
static const char kScript[] = "script";
static const char kOutput[] = "guest.out";

// gem5's magic operations (gem5/asm/generic/m5ops.h): the word 0xFF000110 | function << 16, arguments from x0 on.
// gem5 takes memory as the caches have it: the stores before are finished first (dsb), and an out-of-order core must
// not load early what the operation writes (isb).
#define M5_FAIL 0x22
#define M5_CHECKPOINT 0x43
#define M5_WRITE_FILE 0x4F
#define M5_READ_FILE 0x50

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define M5_DEFINE(name, function)                                                                                      \
    static uint64_t name(uint64_t a, uint64_t b, uint64_t c, uint64_t d) {                                             \
        register uint64_t x0 __asm__("x0") = a;                                                                        \
        register uint64_t x1 __asm__("x1") = b;                                                                        \
        register uint64_t x2 __asm__("x2") = c;                                                                        \
        register uint64_t x3 __asm__("x3") = d;                                                                        \
        __asm__ volatile("dsb sy\n\t.inst 0xFF000110 | (" TEXT(function) " << 16)\n\tisb"                              \
                         : "+r"(x0)                                                                                    \
                         : "r"(x1), "r"(x2), "r"(x3)                                                                   \
                         : "memory");                                                                                  \
        return x0;                                                                                                     \
    }

M5_DEFINE(m5_fail, M5_FAIL)
M5_DEFINE(m5_checkpoint, M5_CHECKPOINT)
M5_DEFINE(m5_write_file, M5_WRITE_FILE)
M5_DEFINE(m5_read_file, M5_READ_FILE)

/// What gem5 reads and writes; never shared with another process, so never copied on a write.
static struct {
    char bytes[1 << 16];
    char name[64];
} window;

static uint64_t output_bytes;

/// Append to gem5's copy of the output; `data` lies in the window.
static void put_output(const char *data, size_t bytes) {
    if (bytes == 0) {
        return;
    }
    strcpy(window.name, kOutput);
    m5_write_file((uint64_t)data, bytes, output_bytes, (uint64_t)window.name);
    output_bytes += bytes;
}

__attribute__((noreturn)) static void end(uint64_t code) {
    for (;;) {
        m5_fail(0, code, 0, 0);
    }
}

/// Say why nothing can be run, and end the simulation.
__attribute__((noreturn, format(printf, 1, 2))) static void give_up(const char *format, ...) {
    va_list args;
    strcpy(window.bytes, "gempim-agent: ");
    size_t used = strlen(window.bytes);
    va_start(args, format);
    int written = vsnprintf(window.bytes + used, sizeof(window.bytes) - used - 1, format, args);
    va_end(args);
    used += written > 0 ? (size_t)written : 0;
    window.bytes[used++] = '\n';
    put_output(window.bytes, used);
    end(AGENT_NO_SCRIPT);
}

// The archive ---------------------------------------------------------------------------------------------------------

static uint64_t archive_at;

/// Read `bytes` of the archive to `data`, whose pages are there.
static void take(void *data, size_t bytes) {
    if (m5_read_file((uint64_t)data, bytes, archive_at, 0) != bytes) {
        give_up("the archive of the host ends at byte %llu", (unsigned long long)archive_at);
    }
    archive_at += bytes;
}

static void align(void) {
    archive_at = (archive_at + 3) & ~(uint64_t)3;
}

static uint64_t field(const char *header, int number) {
    char text[9] = {0};
    memcpy(text, header + 6 + 8 * number, 8);
    return strtoull(text, NULL, 16);
}

static void take_file(const char *name, mode_t mode, size_t bytes) {
    const int file = open(name, O_RDWR | O_CREAT | O_TRUNC, mode & 0777);
    if (file < 0 || ftruncate(file, (off_t)bytes) != 0) {
        give_up("%s: %s", name, strerror(errno));
    }
    if (bytes != 0) {
        // Straight into the file's pages: a copy would cost as many simulated instructions as the file has words.
        char *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (data == MAP_FAILED || madvise(data, bytes, MADV_POPULATE_WRITE) != 0) {
            give_up("%s: no memory for %zu bytes: %s; choose a larger --mem-size", name, bytes, strerror(errno));
        }
        take(data, bytes);
        munmap(data, bytes);
    }
    close(file);
}

/// Unpack the archive, of cpio's format newc (see cpio.py), into the working directory. @return its files
static unsigned unpack(void) {
    unsigned files = 0;
    for (;;) {
        char *header = window.bytes;
        take(header, 110);
        if (memcmp(header, "070701", 6) != 0) {
            give_up("the archive of the host is damaged at byte %llu", (unsigned long long)archive_at);
        }
        const mode_t mode = (mode_t)field(header, 1);
        const uint64_t bytes = field(header, 6);
        const uint64_t name_bytes = field(header, 11);
        static char name[4096];
        if (name_bytes == 0 || name_bytes > sizeof(name)) {
            give_up("the archive of the host has a name of %llu bytes", (unsigned long long)name_bytes);
        }
        memset(name, 0, sizeof(name));
        take(name, name_bytes);
        align();
        if (strcmp(name, "TRAILER!!!") == 0) {
            return files;
        }
        if (S_ISDIR(mode)) {
            if (mkdir(name, mode & 0777) != 0 && errno != EEXIST) {
                give_up("%s: %s", name, strerror(errno));
            }
        } else {
            take_file(name, mode, bytes);
            align();
            ++files;
        }
    }
}

// The script ----------------------------------------------------------------------------------------------------------

static int run_script(void) {
    char shell[] = "/bin/sh";
    char script[] = "./script";
    char *const arguments[] = {shell, script, NULL};
    char path[] = "PATH=/work:/bin:/sbin";
    char home[] = "HOME=/work";
    char *const environment[] = {path, home, NULL};
    int ends[2];
    posix_spawn_file_actions_t actions;
    if (pipe2(ends, O_CLOEXEC) != 0 || posix_spawn_file_actions_init(&actions) != 0 ||
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0) != 0 ||
        posix_spawn_file_actions_adddup2(&actions, ends[1], 1) != 0 ||
        posix_spawn_file_actions_adddup2(&actions, ends[1], 2) != 0) {
        give_up("no pipe: %s", strerror(errno));
    }
    // posix_spawn does not copy the agent's memory, so that the window stays writable.
    pid_t child;
    const int error = posix_spawn(&child, shell, &actions, NULL, arguments, environment);
    if (error != 0) {
        give_up("%s: %s", shell, strerror(error));
    }
    close(ends[1]);
    // To the end of the output, not of the script: what it left in the background may still be printing.
    for (;;) {
        const ssize_t got = read(ends[0], window.bytes, sizeof(window.bytes));
        if (got > 0) {
            put_output(window.bytes, (size_t)got);
        } else if (got == 0 || errno != EINTR) {
            break;
        }
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(void) {
    memset(&window, 0, sizeof(window));
    if (chdir(kFolder) != 0) {
        give_up("%s: %s", kFolder, strerror(errno));
    }
    m5_checkpoint(0, 0, 0, 0);
    if (m5_read_file((uint64_t)window.bytes, 1, 0, 0) != 1) {
        give_up("the host handed over no archive");
    }
    unpack();
    if (access(kScript, R_OK) != 0) {
        give_up("the archive of the host holds no file named %s", kScript);
    }
    end(AGENT_SCRIPT_ENDED | (unsigned)run_script());
}
