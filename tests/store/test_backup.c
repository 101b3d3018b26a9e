#include "tests/store/fixture.h"

#include <unistd.h>

static void a_copy_is_a_store(void **state)
{
    struct fixture *fx = *state;
    struct store_session a = session_make(fx, "a");
    const struct store_options look = {.read_only = true};
    struct store *reader;
    struct fixture copy = {.dir = fx->dir};
    for (uint64_t v = 1; v <= 200; v++)
        turn_add(fx, a.id, v);
    image_add(fx, a.id, 200, 100000);
    snprintf(copy.path, sizeof copy.path, "%s/copy", fx->dir);
    must(fx, store_open(&reader, fx->path, &look, &fx->err));
    must(fx, store_backup(reader, copy.path, &fx->err));
    assert_refused(fx, RXT_EEXIST, "copy", store_backup(reader, copy.path, &fx->err));
    turn_add(fx, a.id, 201); /* not in the copy */
    store_close(&reader);

    fixture_open(&copy);
    must(fx, store_check(copy.s, &fx->err));
    struct store_session b = session_load(&copy, "a");
    assert_true(b.head == 200 && b.applied == 200);
    image_check(&copy, b.id, 200, 200, 100000);
    turn_add(&copy, b.id, 201); /* and it can be written */
    store_close(&copy.s);

    snprintf(copy.path, sizeof copy.path, "%s/again", fx->dir);
    must(fx, store_backup(fx->s, copy.path, &fx->err)); /* from the writer, too */
    assert_int_equal(fixture_number(&copy, "SELECT count(*) FROM turn"), 201);
    assert_status(RXT_EIO, store_backup(fx->s, "/nowhere/at/all", NULL));
    snprintf(copy.path, sizeof copy.path, "%s/again.part", fx->dir);
    assert_int_not_equal(access(copy.path, F_OK), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        store_unit_test(a_copy_is_a_store),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
