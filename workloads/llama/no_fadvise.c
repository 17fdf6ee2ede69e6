/* SPDX-License-Identifier: BSD-3-Clause
 *
 * gem5's system-call emulation ends the simulation at fadvise64, with which llama.cpp announces how it will read the
 * file that it maps. In a static program this definition stands in for the C library's own: advice may be ignored.
 */
#include <fcntl.h>

int posix_fadvise(int file, off_t offset, off_t length, int advice) {
    (void)file;
    (void)offset;
    (void)length;
    (void)advice;
    return 0;
}
