/* A front without sockets: clients and an engine made of function calls, and a clock that the test
 * moves. What is sent is kept, decoded. */
#ifndef RXT_TESTS_BRIDGE_FRONT_RIG_H
#define RXT_TESTS_BRIDGE_FRONT_RIG_H

#include "bridge/front_impl.h"
#include "tests/lib/test.h"

#define RIG_MAX 4096

struct rig_sent {
    enum front_endpoint at;
    char route[8];
    struct wire_header h;
    struct wire_body body; /* texts lent from `bytes` */
    uint8_t *bytes;
    uint32_t raw_bytes;
};

struct rig {
    struct front *front;
    struct front_limits limits;
    struct rig_sent sent[RIG_MAX];
    int n_sent, n_read; /* read: those that a test has looked at */
    struct order *order[RIG_MAX];
    int n_order, n_taken;
    uint64_t now_us;
    enum front_sent answer; /* of the hook that sends: SENT, FULL, GONE ... */
    char answer_to[8];      /* ... for this route only; "" = for all */
    uint8_t admin;          /* type of the last admin request */
};

void rig_open(struct rig *r); /* limits as set, else small defaults */
void rig_close(struct rig *r);

/* ---- clients: a route is a connection of at most 7 letters, its id a byte repeated ---- */

const char *rig_tenant(const char *route); /* "other" if it begins with a capital, else "default" */
void rig_frames(struct rig *r, const char *route, const char *tenant, enum front_endpoint at,
                const struct wire_text *frame, size_t n);
/* A whole message; id 0 = zero. The body is encoded from b. */
void rig_send(struct rig *r, const char *route, uint8_t type, uint8_t id,
              const struct wire_body *b);
/* The same at an endpoint that is not the one of most messages of its type. */
void rig_send_at(struct rig *r, const char *route, enum front_endpoint at, uint8_t type, uint8_t id,
                 const struct wire_body *b);
void rig_hello(struct rig *r, const char *route, uint64_t credit); /* and reads WELCOME */
void rig_hello_at(struct rig *r, const char *route, enum front_endpoint at, uint64_t credit);
void rig_turn(struct rig *r, const char *route, uint8_t id, const char *session);
void rig_simple(struct rig *r, const char *route, uint8_t type, uint8_t id, const char *session);
void rig_credit(struct rig *r, const char *route, uint64_t bytes);
void rig_resume(struct rig *r, const char *route, uint8_t id, const char *session, uint64_t from);

/* The next message that was sent; fails if there is none, or another type, route or id. */
struct rig_sent *rig_expect(struct rig *r, const char *route, uint8_t type, uint8_t id);
struct rig_sent *rig_error(struct rig *r, const char *route, uint8_t id, enum wire_error code);
void rig_quiet(struct rig *r); /* nothing more was sent */

/* ---- engine ---- */

struct order *rig_order(struct rig *r, enum order_kind kind); /* the next one, freed by rig_close */
void rig_no_order(struct rig *r);
void rig_ticket(struct rig *r, struct stream *s, uint64_t ticket);
void rig_token(struct rig *r, struct stream *s, int32_t id, const char *text, int32_t candidate);
void rig_note(struct rig *r, struct stream *s, enum note_kind kind, uint64_t ticket,
              enum rxt_status st, const void *bytes, size_t n);
void rig_message(struct rig *r, struct stream *s, uint8_t type, uint16_t flags);

/* ---- for tests ---- */

/* A fresh rig as *state of each test. */
int rig_test_open(void **state);
int rig_test_close(void **state);
#define RIG_TEST(f) cmocka_unit_test_setup_teardown(f, rig_test_open, rig_test_close)

void rig_tick(struct rig *r, uint64_t ms);       /* time passes */
void rig_drop_sent(struct rig *r);               /* as if the test had read it */
void rig_lose(struct rig *r, const char *route); /* the connection is gone, and it is noticed */

/* A turn "abc" of three tokens in session "s" that has been answered, its end, and all of its
 * stream from this token on. */
struct stream *rig_run_turn(struct rig *r, const char *route, uint8_t id);
void rig_end_turn(struct rig *r, struct stream *s);
void rig_expect_stream(struct rig *r, const char *route, uint8_t id, uint32_t from);

#endif
