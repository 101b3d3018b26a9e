/* Exports and imports, chunk by chunk under credit. */
#include "tests/bridge/front_rig.h"

static uint8_t chunk[WIRE_CHUNK_BYTES];

static void hello_state(struct rig *r, uint64_t credit)
{
    rig_hello_at(r, "a", FRONT_STATE, credit);
}

static void send_chunk(struct rig *r, uint8_t id, uint32_t sequence, size_t n)
{
    uint8_t header[WIRE_HEADER_BYTES];
    struct wire_header h = {
        .version = 1, .type = WIRE_CHUNK, .body_bytes = 1, .sequence = sequence};
    memset(h.id, id, sizeof h.id);
    wire_header_put(&h, header);
    const struct wire_text frame[3] = {wire_bytes(header, sizeof header), wire_bytes("\x80", 1),
                                       wire_bytes(chunk, n)};
    rig_frames(r, "a", "default", FRONT_STATE, frame, 3);
}

static void begin_import_of(struct rig *r, const char *route, uint8_t id, uint64_t bytes)
{
    struct wire_body b = {0};
    wire_init(WIRE_IMPORT, &b);
    b.session = wire_string("new");
    b.bytes = bytes;
    rig_send(r, route, WIRE_IMPORT, id, &b);
}

static void begin_import(struct rig *r, uint8_t id, uint64_t bytes)
{
    begin_import_of(r, "a", id, bytes);
}

static void test_export(void **state)
{
    struct rig *r = *state;
    hello_state(r, 1);
    rig_simple(r, "a", WIRE_EXPORT, 1, "s");
    struct order *o = rig_order(r, ORDER_SUBMIT);
    struct stream *s = o->stream;
    assert_int_equal(o->r.verb, BRIDGE_EXPORT);
    assert_true(o->spool > 0);
    rig_note(r, s, NOTE_SPOOLED, 0, RXT_OK, NULL, 0);
    o = rig_order(r, ORDER_READ);
    assert_true(o->offset == 0 && o->n_bytes == WIRE_CHUNK_BYTES);
    rig_note(r, s, NOTE_CHUNK, WIRE_CHUNK_BYTES + 5, RXT_OK, chunk, WIRE_CHUNK_BYTES);
    struct rig_sent *c = rig_expect(r, "a", WIRE_CHUNK, 1);
    assert_true(c->h.sequence == 0 && c->raw_bytes == WIRE_CHUNK_BYTES);
    o = rig_order(r, ORDER_READ);
    assert_int_equal(o->offset, WIRE_CHUNK_BYTES);
    rig_note(r, s, NOTE_CHUNK, WIRE_CHUNK_BYTES + 5, RXT_OK, chunk, 5);
    rig_quiet(r); /* the credit is used up, and no more than one chunk is read ahead */
    rig_no_order(r);
    hello_state(r, 100); /* credit begins anew */
    c = rig_expect(r, "a", WIRE_CHUNK, 1);
    assert_true(c->h.sequence == 1 && c->raw_bytes == 5);
    c = rig_expect(r, "a", WIRE_DONE, 1);
    assert_true(c->body.bytes == WIRE_CHUNK_BYTES + 5 && c->body.chunks == 2);
    assert_int_equal(c->h.flags, WIRE_FINAL);
    rig_order(r, ORDER_DROP);
    assert_int_equal(front_counts(r->front).streams, 0);
}

static void test_export_fails(void **state)
{
    struct rig *r = *state;
    hello_state(r, WIRE_ABSENT);
    for (int how = 0; how < 3; how++) {
        uint8_t id = (uint8_t)(1 + how);
        rig_simple(r, "a", WIRE_EXPORT, id, "s");
        struct stream *s = rig_order(r, ORDER_SUBMIT)->stream;
        if (how == 0) { /* the engine refuses */
            rig_message(r, s, WIRE_ERROR, WIRE_FINAL);
            rig_expect(r, "a", WIRE_ERROR, id);
        } else if (how == 1) { /* the file cannot be read */
            rig_note(r, s, NOTE_SPOOLED, 0, RXT_OK, NULL, 0);
            rig_order(r, ORDER_READ);
            rig_note(r, s, NOTE_CHUNK, 0, RXT_EIO, NULL, 0);
            rig_error(r, "a", id, WIRE_E_IO);
        } else { /* the client changes its mind while a chunk is read */
            rig_note(r, s, NOTE_SPOOLED, 0, RXT_OK, NULL, 0);
            rig_order(r, ORDER_READ);
            struct wire_body b = {0};
            wire_init(WIRE_CANCEL, &b);
            b.session = wire_string("s");
            rig_send_at(r, "a", FRONT_STATE, WIRE_CANCEL, id, &b);
            rig_expect(r, "a", WIRE_CANCELLED, id);
            rig_no_order(r); /* the file stays until the reader has let go */
            rig_note(r, s, NOTE_CHUNK, 9, RXT_OK, chunk, 9);
        }
        rig_order(r, ORDER_DROP);
        rig_quiet(r);
        assert_int_equal(front_counts(r->front).streams, 0);
        assert_int_equal(front_counts(r->front).running, 0);
    }
}

static void test_import(void **state)
{
    struct rig *r = *state;
    hello_state(r, WIRE_ABSENT);
    begin_import(r, 1, WIRE_CHUNK_BYTES + 5);
    struct rig_sent *a = rig_expect(r, "a", WIRE_ACCEPTED, 1);
    assert_int_equal(a->body.credit, 8 * WIRE_CHUNK_BYTES);
    rig_no_order(r); /* the engine hears of it when it is whole */
    send_chunk(r, 1, 0, WIRE_CHUNK_BYTES);
    struct order *o = rig_order(r, ORDER_WRITE);
    struct stream *s = o->stream;
    uint64_t spool = o->spool;
    assert_true(o->offset == 0 && o->n_bytes == WIRE_CHUNK_BYTES);
    send_chunk(r, 1, 1, 5);
    o = rig_order(r, ORDER_WRITE);
    assert_true(o->offset == WIRE_CHUNK_BYTES && o->n_bytes == 5 && o->spool == spool);
    rig_note(r, s, NOTE_WROTE, WIRE_CHUNK_BYTES, RXT_OK, NULL, 0);
    assert_int_equal(rig_expect(r, "a", WIRE_CREDIT, 1)->body.bytes, WIRE_CHUNK_BYTES);
    rig_no_order(r);
    rig_note(r, s, NOTE_WROTE, 5, RXT_OK, NULL, 0);
    o = rig_order(r, ORDER_SUBMIT);
    assert_int_equal(o->r.verb, BRIDGE_IMPORT);
    assert_true(o->spool == spool);
    assert_string_equal(o->r.session, "new");
    send_chunk(r, 1, 2, 5); /* one too many is refused alone: the engine has the import */
    assert_int_equal(rig_error(r, "a", 1, WIRE_E_BAD_FRAME)->h.flags, 0);
    rig_message(r, s, WIRE_DONE, WIRE_FINAL);
    rig_expect(r, "a", WIRE_DONE, 1);
    assert_int_equal(rig_order(r, ORDER_DROP)->spool, spool);
    send_chunk(r, 1, 2, 5); /* it is over */
    rig_error(r, "a", 1, WIRE_E_NO_REQUEST);
    rig_quiet(r);
}

static void test_import_fails(void **state)
{
    static const struct {
        uint32_t sequence;
        size_t bytes;
    } bad[] = {{1, 10}, {0, 9}, {0, 11}};
    struct rig *r = *state;
    hello_state(r, WIRE_ABSENT);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        begin_import(r, 1, 10);
        rig_expect(r, "a", WIRE_ACCEPTED, 1);
        send_chunk(r, 1, bad[i].sequence, bad[i].bytes);
        assert_int_equal(rig_error(r, "a", 1, WIRE_E_BAD_FRAME)->h.flags, WIRE_FINAL);
        rig_order(r, ORDER_DROP);
    }
    begin_import(r, 2, 10); /* the disk is full */
    rig_expect(r, "a", WIRE_ACCEPTED, 2);
    send_chunk(r, 2, 0, 10);
    struct stream *s = rig_order(r, ORDER_WRITE)->stream;
    rig_note(r, s, NOTE_WROTE, 10, RXT_EFULL, NULL, 0);
    rig_error(r, "a", 2, WIRE_E_DISK_FULL);
    rig_order(r, ORDER_DROP);

    begin_import(r, 3, r->limits.max_import_bytes + 1);
    rig_error(r, "a", 3, WIRE_E_LIMIT);
    begin_import(r, 4, 10);
    begin_import(r, 5, 10);
    begin_import(r, 6, 10); /* two at a time */
    rig_expect(r, "a", WIRE_ACCEPTED, 4);
    rig_expect(r, "a", WIRE_ACCEPTED, 5);
    rig_error(r, "a", 6, WIRE_E_BUSY);
    rig_no_order(r);
    rig_lose(r, "a"); /* whoever imports is gone: the files go */
    rig_order(r, ORDER_DROP);
    rig_order(r, ORDER_DROP);
    assert_int_equal(front_counts(r->front).streams, 0);
}

/* Exports and imports of one tenant leave room for those of others, on however many connections. */
static void test_share_of_a_tenant(void **state)
{
    struct rig *r = *state;
    r->limits.max_bulk = 3;
    r->limits.max_tenant_bulk = 2;
    front_set_limits(r->front, &r->limits);
    hello_state(r, WIRE_ABSENT);
    rig_hello_at(r, "b", FRONT_STATE, WIRE_ABSENT);
    rig_hello_at(r, "B", FRONT_STATE, WIRE_ABSENT);
    rig_simple(r, "a", WIRE_EXPORT, 1, "s");
    struct stream *s = rig_order(r, ORDER_SUBMIT)->stream;
    begin_import_of(r, "b", 2, 10);
    rig_expect(r, "b", WIRE_ACCEPTED, 2);
    begin_import_of(r, "b", 3, 10);
    rig_error(r, "b", 3, WIRE_E_BUSY);
    rig_simple(r, "a", WIRE_EXPORT, 4, "s");
    rig_error(r, "a", 4, WIRE_E_BUSY);
    begin_import_of(r, "B", 5, 10);
    rig_expect(r, "B", WIRE_ACCEPTED, 5);
    begin_import_of(r, "B", 6, 10); /* of its two, but the third of all */
    rig_error(r, "B", 6, WIRE_E_BUSY);
    rig_message(r, s, WIRE_ERROR, WIRE_FINAL); /* the place of what has ended is free */
    rig_expect(r, "a", WIRE_ERROR, 1);
    rig_order(r, ORDER_DROP);
    begin_import_of(r, "b", 7, 10);
    rig_expect(r, "b", WIRE_ACCEPTED, 7);
    rig_quiet(r);
}

static void end_import(struct rig *r, const char *route, uint8_t id)
{
    struct wire_body b = {0};
    wire_init(WIRE_CANCEL, &b);
    b.session = wire_string("new");
    rig_send_at(r, route, FRONT_STATE, WIRE_CANCEL, id, &b);
    rig_expect(r, route, WIRE_CANCELLED, id);
    rig_order(r, ORDER_DROP);
}

/* A place that gets free is for who was refused first and holds none, not for who is quicker; who
 * does not ask again loses its turn. */
static void test_places_in_turn(void **state)
{
    struct rig *r = *state;
    r->limits.stall_ms = 100000;
    front_set_limits(r->front, &r->limits);
    hello_state(r, WIRE_ABSENT);
    rig_hello_at(r, "B", FRONT_STATE, WIRE_ABSENT);
    for (int asks_again = 0; asks_again < 2; asks_again++) {
        uint8_t id = (uint8_t)(10 * asks_again);
        begin_import_of(r, "a", id + 1, 10);
        rig_expect(r, "a", WIRE_ACCEPTED, id + 1);
        begin_import_of(r, "a", id + 2, 10);
        rig_expect(r, "a", WIRE_ACCEPTED, id + 2);
        begin_import_of(r, "B", id + 3, 10);
        rig_error(r, "B", id + 3, WIRE_E_BUSY);
        end_import(r, "a", id + 1);
        begin_import_of(r, "a", id + 4, 10); /* quicker, but it holds one */
        rig_error(r, "a", id + 4, WIRE_E_BUSY);
        end_import(r, "a", id + 2);
        begin_import_of(r, "a", id + 5, 10); /* it holds none, and there is another place */
        rig_expect(r, "a", WIRE_ACCEPTED, id + 5);
        begin_import_of(r, "a", id + 6, 10);
        rig_error(r, "a", id + 6, WIRE_E_BUSY);
        if (asks_again) {
            begin_import_of(r, "B", id + 7, 10);
            rig_expect(r, "B", WIRE_ACCEPTED, id + 7);
            end_import(r, "B", id + 7);
        } else {
            rig_tick(r, 4000);
            rig_drop_sent(r); /* PINGs */
        }
        begin_import_of(r, "a", id + 8, 10); /* nobody waits any more */
        rig_expect(r, "a", WIRE_ACCEPTED, id + 8);
        end_import(r, "a", id + 5);
        end_import(r, "a", id + 8);
    }
    assert_int_equal(front_counts(r->front).streams, 0);
}

/* The bytes of a stream are kept by nobody: on another connection there is nothing to go on with.
 */
static void test_no_resume(void **state)
{
    struct rig *r = *state;
    hello_state(r, WIRE_ABSENT);
    rig_hello(r, "t", WIRE_ABSENT);
    rig_simple(r, "a", WIRE_EXPORT, 1, "s");
    struct stream *s = rig_order(r, ORDER_SUBMIT)->stream;
    begin_import(r, 2, 10);
    rig_expect(r, "a", WIRE_ACCEPTED, 2);
    rig_resume(r, "t", 1, "s", 0);
    rig_error(r, "t", 1, WIRE_E_NO_REQUEST);
    rig_resume(r, "t", 2, "new", 0);
    rig_error(r, "t", 2, WIRE_E_NO_REQUEST);
    rig_note(r, s, NOTE_SPOOLED, 0, RXT_OK, NULL, 0); /* both go on where they were */
    rig_order(r, ORDER_READ);
    rig_note(r, s, NOTE_CHUNK, 9, RXT_OK, chunk, 9);
    rig_expect(r, "a", WIRE_CHUNK, 1);
    rig_expect(r, "a", WIRE_DONE, 1);
    rig_order(r, ORDER_DROP);
    send_chunk(r, 2, 0, 10);
    rig_order(r, ORDER_WRITE);
}

/* Whoever may send and does not must not keep others from importing. */
static void test_import_stalls(void **state)
{
    struct rig *r = *state;
    hello_state(r, WIRE_ABSENT);
    begin_import(r, 1, 10);
    rig_expect(r, "a", WIRE_ACCEPTED, 1);
    begin_import(r, 2, WIRE_CHUNK_BYTES + 5);
    rig_expect(r, "a", WIRE_ACCEPTED, 2);
    rig_tick(r, r->limits.stall_ms - 100);
    send_chunk(r, 2, 0, WIRE_CHUNK_BYTES);
    struct stream *s = rig_order(r, ORDER_WRITE)->stream;
    rig_drop_sent(r); /* PINGs */
    rig_tick(r, 200);
    rig_error(r, "a", 1, WIRE_E_DEADLINE);
    rig_order(r, ORDER_DROP);
    rig_note(r, s, NOTE_WROTE, WIRE_CHUNK_BYTES, RXT_OK, NULL, 0);
    rig_expect(r, "a", WIRE_CREDIT, 2);
    send_chunk(r, 2, 1, 5);
    rig_order(r, ORDER_WRITE);
    rig_tick(r, 10 * r->limits.stall_ms); /* the disk is slow: not the client's fault */
    rig_note(r, s, NOTE_WROTE, 5, RXT_OK, NULL, 0);
    rig_order(r, ORDER_SUBMIT);
    rig_tick(r, 10 * r->limits.stall_ms); /* and so is the engine */
    rig_message(r, s, WIRE_DONE, WIRE_FINAL);
    rig_drop_sent(r);
    assert_int_equal(front_counts(r->front).streams, 0);
}

/* With no credit it waits for the disk, and its time begins when that has given some. */
static void test_import_waits_for_credit(void **state)
{
    struct rig *r = *state;
    struct stream *s = NULL;
    r->limits.max_import_bytes = 9 * WIRE_CHUNK_BYTES;
    front_set_limits(r->front, &r->limits);
    hello_state(r, WIRE_ABSENT);
    begin_import(r, 1, 9 * WIRE_CHUNK_BYTES);
    rig_expect(r, "a", WIRE_ACCEPTED, 1);
    for (uint32_t i = 0; i < 8; i++) {
        send_chunk(r, 1, i, WIRE_CHUNK_BYTES);
        s = rig_order(r, ORDER_WRITE)->stream;
    }
    rig_tick(r, 2 * r->limits.stall_ms);
    rig_drop_sent(r);
    rig_note(r, s, NOTE_WROTE, WIRE_CHUNK_BYTES, RXT_OK, NULL, 0);
    rig_expect(r, "a", WIRE_CREDIT, 1);
    rig_tick(r, r->limits.stall_ms);
    rig_drop_sent(r);
    assert_int_equal(front_counts(r->front).running, 1);
    rig_tick(r, 1);
    rig_error(r, "a", 1, WIRE_E_DEADLINE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TEST(test_export),
        RIG_TEST(test_export_fails),
        RIG_TEST(test_import),
        RIG_TEST(test_import_fails),
        RIG_TEST(test_share_of_a_tenant),
        RIG_TEST(test_places_in_turn),
        RIG_TEST(test_no_resume),
        RIG_TEST(test_import_stalls),
        RIG_TEST(test_import_waits_for_credit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
