/* What every test includes: cmocka with the headers it forgets, and checks of our own. */
#ifndef RXT_TESTS_TEST_H
#define RXT_TESTS_TEST_H

#include "kernels/base/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define assert_ok(call) assert_status(RXT_OK, (call))
#define assert_status(want, call) assert_status_(want, (call), #call, __FILE__, __LINE__)
void assert_status_(enum rxt_status want, enum rxt_status got, const char *call, const char *file,
                    int line);

/* Runs `body` with allocation 1, 2, 3, ... failing until it returns RXT_OK; each failed round must
 * return RXT_ENOMEM and leave as many live bytes as it found. */
void assert_survives_no_memory(enum rxt_status (*body)(void *arg), void *arg);

/* body(arg) must end in abort(), as a failed assert() does; it runs in a child whose standard error
 * is closed. */
#define assert_aborts(body, arg) assert_aborts_((body), (arg), #body, __FILE__, __LINE__)
void assert_aborts_(void (*body)(void *arg), void *arg, const char *what, const char *file,
                    int line);

/* A fresh directory under $TMPDIR; removed with everything in it by test_dir_remove. */
char *test_dir_make(void);
void test_dir_remove(char *dir);

/* Bytes of pairs of hexadecimal digits, up to what is none; their number. */
static inline size_t test_unhex(const char *s, uint8_t *out)
{
    size_t n = 0;
    for (unsigned v; sscanf(s, "%2x", &v) == 1; s += 2)
        out[n++] = (uint8_t)v;
    return n;
}

#endif
