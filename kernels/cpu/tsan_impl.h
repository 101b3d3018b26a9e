/* Loops that are built without the thread sanitizer, which takes ten times as long as they do: with
 * TELLS_TSAN (kernels/CMakeLists.txt) their callers tell it the ranges that they read and write. */
#ifndef RXT_CPU_TSAN_IMPL_H
#define RXT_CPU_TSAN_IMPL_H

#include <stddef.h>

#ifdef TELLS_TSAN
void __tsan_read_range(const void *at, size_t bytes);
void __tsan_write_range(void *at, size_t bytes);
#define WITHOUT_TSAN __attribute__((no_sanitize("thread")))
#else
#define WITHOUT_TSAN
#endif

#endif
