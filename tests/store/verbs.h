/* Every verb of the door, once with all that it needs, for the tests that make something fail under
 * it: the disk (test_vfs), the memory of SQLite and our own (test_no_memory). */
#ifndef RXT_TESTS_STORE_VERBS_H
#define RXT_TESTS_STORE_VERBS_H

#include "tests/store/fixture.h"

/* What makes the nth thing from now fail. */
struct breaker {
    void (*arm)(uint64_t nth);
    bool (*disarm)(void);    /* true if something has failed */
    enum rxt_status allowed; /* what a verb may return then */
    int n_verb;              /* so many verbs at least must fail, or nothing was tested */
};

/* Runs each verb with the 1st, 2nd, ... thing failing until nothing does, on one handle, in a store
 * of its own. A verb that fails must say so with the allowed status and a sentence and change
 * nothing; right after, it must work; at the end everything must be there. Not thorough: only some
 * of the places, ever fewer; thorough: all of the first hundred. cold: with an empty page cache. */
void verbs_survive(struct fixture *fx, const struct breaker *b, bool thorough, bool cold);

/* Adds all that can be read of a session to a hash. */
enum rxt_status verbs_digest_session(struct store *s, const struct store_session *x, uint64_t *d,
                                     struct rxt_error *err);
/* The same of all sessions. */
enum rxt_status verbs_digest(struct store *s, uint64_t *digest, struct rxt_error *err);

#endif
