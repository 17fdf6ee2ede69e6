/* SPDX-License-Identifier: BSD-3-Clause
 *
 * gem5's system-call emulation ends the simulation at clone3, which glibc tries before clone. In a static program this
 * definition stands in for the C library's own, says that there is no clone3, and the library then uses clone.
 */
#include <errno.h>
#include <stddef.h>

int __clone3(void *arguments, size_t size, int (*function)(void *), void *argument);

int __clone3(void *arguments, size_t size, int (*function)(void *), void *argument) {
    (void)arguments;
    (void)size;
    (void)function;
    (void)argument;
    errno = ENOSYS;
    return -1;
}
