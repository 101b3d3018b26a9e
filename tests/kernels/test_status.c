#include "kernels/base/status.h"

#include "tests/lib/test.h"

static void names_and_texts(void **state)
{
    (void)state;
    assert_string_equal(rxt_status_name(RXT_OK), "RXT_OK");
    assert_string_equal(rxt_status_name(RXT_EEXPIRED), "RXT_EEXPIRED");
    assert_string_equal(rxt_status_text(RXT_ENOMEM), "out of memory");
    assert_string_equal(rxt_status_name((enum rxt_status)12345), "RXT_UNKNOWN");
    assert_string_equal(rxt_status_text((enum rxt_status)12345), "unknown status");
}

/* Numbers go over the wire and into exit codes: they are never changed, only added to. */
static void numbers_are_stable(void **state)
{
    (void)state;
    static const char *const name[] = {
        "RXT_OK",      "RXT_ENOMEM",     "RXT_EINVAL",   "RXT_ESHAPE",       "RXT_EDEVICE",
        "RXT_EIO",     "RXT_EFULL",      "RXT_EFORMAT",  "RXT_EUNSUPPORTED", "RXT_ENOTFOUND",
        "RXT_EEXIST",  "RXT_ESTALE",     "RXT_ECORRUPT", "RXT_EMISMATCH",    "RXT_ENONFINITE",
        "RXT_EBUSY",   "RXT_ECANCELLED", "RXT_ELIMIT",   "RXT_EUTF8",        "RXT_ENEWER",
        "RXT_EFENCED", "RXT_EHELD",      "RXT_EEXPIRED", "RXT_EDEADLINE",
    };
    for (size_t i = 0; i < sizeof name / sizeof *name; i++)
        assert_string_equal(rxt_status_name((enum rxt_status)i), name[i]);
}

static void fail_writes_and_returns(void **state)
{
    (void)state;
    struct rxt_error err = {"old"};
    assert_status(RXT_ESHAPE, rxt_fail(&err, RXT_ESHAPE, "%s: %d rows, want %d", "tensor", 3, 4));
    assert_string_equal(err.text, "tensor: 3 rows, want 4");
    assert_status(RXT_EIO, rxt_fail(NULL, RXT_EIO, "nobody listens"));
    assert_status(RXT_EIO, rxt_fail(&err, RXT_EIO, "%s", ""));
    assert_string_equal(err.text, "");
}

/* A text of `lead` letters, then code points of `unit` until it is too long: the result is the
 * letters and as many whole code points as fit into 255 bytes. */
static void check_cut(size_t lead, const char *unit)
{
    char text[600];
    size_t size = strlen(unit), n = lead;
    memset(text, 'x', lead);
    for (; n < 500; n += size)
        memcpy(text + n, unit, size);
    text[n] = '\0';
    struct rxt_error err;
    assert_status(RXT_EIO, rxt_fail(&err, RXT_EIO, "%s", text));
    assert_int_equal(strlen(err.text), lead + (255 - lead) / size * size);
    assert_memory_equal(err.text, text, strlen(err.text));
}

static void fail_cuts_on_code_points(void **state)
{
    (void)state;
    static const char *const unit[] = {"y", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80"};
    for (size_t u = 0; u < sizeof unit / sizeof *unit; u++)
        for (size_t lead = 0; lead < 12; lead++)
            check_cut(lead, unit[u]);
}

static void fail_keeps_what_just_fits(void **state)
{
    (void)state;
    char text[256];
    memset(text, 'x', 255);
    memcpy(text + 251, "\xF0\x9F\x98\x80", 4);
    text[255] = '\0';
    struct rxt_error err;
    assert_status(RXT_EIO, rxt_fail(&err, RXT_EIO, "%s", text));
    assert_string_equal(err.text, text);
}

/* Bytes that are no UTF-8 must not lead the search for a border out of the buffer. */
static void fail_survives_broken_text(void **state)
{
    (void)state;
    char text[400];
    memset(text, 0x80, sizeof text - 1);
    text[sizeof text - 1] = '\0';
    struct rxt_error err;
    assert_status(RXT_EUTF8, rxt_fail(&err, RXT_EUTF8, "%s", text));
    assert_true(strlen(err.text) <= 255);
}

static enum rxt_status try_twice(enum rxt_status first, enum rxt_status second, int *reached)
{
    *reached = 0;
    TRY(first);
    *reached = 1;
    TRY(second);
    *reached = 2;
    return RXT_OK;
}

static enum rxt_status try_or(enum rxt_status call, int *undone)
{
    enum rxt_status st;
    *undone = 0;
    TRY_OR(fail, call);
    return RXT_OK;
fail:
    *undone = 1;
    return st;
}

static void try_leaves_at_the_first_failure(void **state)
{
    (void)state;
    int reached;
    assert_ok(try_twice(RXT_OK, RXT_OK, &reached));
    assert_int_equal(reached, 2);
    assert_status(RXT_EBUSY, try_twice(RXT_OK, RXT_EBUSY, &reached));
    assert_int_equal(reached, 1);
    assert_status(RXT_EFULL, try_twice(RXT_EFULL, RXT_EBUSY, &reached));
    assert_int_equal(reached, 0);
    assert_ok(try_or(RXT_OK, &reached));
    assert_int_equal(reached, 0);
    assert_status(RXT_EHELD, try_or(RXT_EHELD, &reached));
    assert_int_equal(reached, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_texts),
        cmocka_unit_test(numbers_are_stable),
        cmocka_unit_test(fail_writes_and_returns),
        cmocka_unit_test(fail_cuts_on_code_points),
        cmocka_unit_test(fail_keeps_what_just_fits),
        cmocka_unit_test(fail_survives_broken_text),
        cmocka_unit_test(try_leaves_at_the_first_failure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
