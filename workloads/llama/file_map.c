/* SPDX-License-Identifier: BSD-3-Clause
 *
 * How a file is mapped in the program for gem5. Its system-call emulation gives a mapped page its content when it is
 * first touched, but not any more after a checkpoint was restored. So a mapping is anonymous memory into which the file
 * is read at once (the linker's --wrap=mmap). And the emulation ends at fadvise64, with which llama.cpp announces how
 * it will read: advice may be ignored.
 */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

void *__real_mmap(void *address, size_t length, int protection, int flags, int file, off_t offset);
void *__wrap_mmap(void *address, size_t length, int protection, int flags, int file, off_t offset);

void *__wrap_mmap(void *address, size_t length, int protection, int flags, int file, off_t offset) {
    if ((flags & MAP_ANONYMOUS) != 0) {
        return __real_mmap(address, length, protection, flags, file, offset);
    }
    if ((protection & PROT_WRITE) != 0) { /* what is written would not reach the file */
        errno = EACCES;
        return MAP_FAILED;
    }
    char *memory = __real_mmap(address, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return MAP_FAILED;
    }
    /* gem5 has no pread64; nobody else reads the file meanwhile. */
    const off_t position = lseek(file, 0, SEEK_CUR);
    ssize_t bytes = lseek(file, offset, SEEK_SET) < 0 ? -1 : 1;
    for (size_t done = 0; bytes > 0 && done < length; done += (size_t)bytes) {
        bytes = read(file, memory + done, length - done);
        if (bytes == 0) {
            break; /* the rest of the last page */
        }
    }
    if (bytes < 0 || lseek(file, position, SEEK_SET) < 0) {
        munmap(memory, length);
        return MAP_FAILED;
    }
    return memory;
}

int posix_fadvise(int file, off_t offset, off_t length, int advice) {
    (void)file;
    (void)offset;
    (void)length;
    (void)advice;
    return 0;
}
