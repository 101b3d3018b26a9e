/* Time for figures and deadlines; never for results. */
#ifndef RXT_BASE_CLOCK_H
#define RXT_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Nanoseconds and microseconds since an arbitrary start; never go back. */
static inline uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
static inline uint64_t clock_us(void)
{
    return clock_ns() / 1000u;
}

/* Microseconds since 1970, for rows that people read. */
static inline int64_t clock_wall_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

#endif
