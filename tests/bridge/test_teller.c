/* Events of the bridge as notes for the front, also when there is no memory for a note. */
#include "bridge/server_event_impl.h"
#include "kernels/base/mem.h"
#include "tests/bridge/rig.h"

static struct teller teller;
static struct mailbox box;
static struct metrics metrics;
static int32_t candidate; /* of the last message that was taken */

/* Memory fails from that allocation on; 0 = never. */
static void order_without(uint64_t memory, enum bridge_verb verb, uintptr_t stream)
{
    struct order *o = mem_alloc(sizeof *o);
    assert_non_null(o);
    o->r = request(verb, "s");
    o->stream = (struct stream *)stream; /* NOLINT(performance-no-int-to-ptr): only a name here */
    if (memory > 0)
        mem_fail_from(memory);
    if (!teller_submit(&teller, o))
        mem_free(o);
}

static void order(enum bridge_verb verb, uintptr_t stream)
{
    order_without(0, verb, stream);
}

/* Takes what has been said; gives the last message and the number of notes. */
static int take(struct wire_header *h, struct wire_body *b)
{
    static uint8_t body[4096];
    struct wire_fault fault;
    int n = 0;
    teller_flush(&teller);
    for (struct mail *mail = mailbox_take(&box); mail;) {
        struct batch *batch = (struct batch *)(void *)mail;
        mail = mail->next;
        for (size_t at = 0; at < batch->used; n++) {
            const struct note *note = (const struct note *)(const void *)(batch->bytes + at);
            at += note->size;
            if (note->kind != NOTE_MESSAGE)
                continue;
            *h = (struct wire_header){.type = note->type, .flags = note->flags};
            candidate = note->candidate;
            assert_true(note->bytes <= sizeof body);
            memcpy(body, note + 1, note->bytes);
            assert_int_equal(wire_decode(note->type, body, note->bytes, b, &fault), WIRE_OK);
        }
        mem_free(batch);
    }
    return n;
}

static void test_notes(void **state)
{
    (void)state;
    struct wire_header h = {0};
    struct wire_body b = {0};
    order(BRIDGE_OPEN, 16);
    assert_int_equal(teller.n_request, 1);
    step_until_idle(&rig);
    assert_int_equal(take(&h, &b), 2); /* ticket and DONE */
    assert_true(h.type == WIRE_DONE && h.flags == WIRE_FINAL);
    assert_int_equal(teller.n_request, 0);
    order(BRIDGE_GET, 32); /* brings it in */
    step_until_idle(&rig);
    assert_int_equal(take(&h, &b), 2);
    assert_true(h.type == WIRE_DONE && b.info.version == 0);
}

/* The sequence of an end counts the tokens of the candidate that was chosen. */
static void test_ends_of_the_chosen_one(void **state)
{
    (void)state;
    static const enum bridge_event_kind end[] = {BRIDGE_MEMORY_FAILED, BRIDGE_CANCELLED,
                                                 BRIDGE_ERROR};
    const struct told told = {.teller = &teller, .verb = BRIDGE_TURN};
    for (size_t i = 0; i < sizeof end / sizeof *end; i++) {
        struct wire_header h = {0};
        struct wire_body b = {0};
        tell_event(&told, &(struct bridge_event){.kind = end[i],
                                                 .final = true,
                                                 .session = "s",
                                                 .candidate = 2,
                                                 .status = RXT_EHELD,
                                                 .error = "held"});
        assert_int_equal(take(&h, &b), 1);
        assert_int_equal(h.flags, WIRE_FINAL);
        assert_int_equal(candidate, 2);
    }
}

/* One event is owed while there is no memory, and told as a refusal when there is again. */
static void told_once_there_is_memory(void)
{
    struct wire_header h = {0};
    struct wire_body b = {0};
    uint32_t owed = teller.n_owed;
    teller_settle(&teller); /* still none */
    uint32_t still = teller.n_owed;
    assert_true(mem_fail_never());
    assert_int_equal(owed, 1);
    assert_int_equal(still, 1);
    teller_settle(&teller);
    assert_int_equal(teller.n_owed, 0);
    assert_int_equal(teller.n_request, 0);
    assert_int_equal(take(&h, &b), 1);
    assert_true(h.type == WIRE_ERROR && h.flags == WIRE_FINAL);
    assert_int_equal(b.code, WIRE_E_NO_MEMORY);
}

static void test_no_memory(void **state)
{
    (void)state;
    struct wire_header h = {0};
    struct wire_body b = {0};
    order(BRIDGE_GET, 48);
    assert_int_equal(take(&h, &b), 1); /* the ticket; the next note needs a batch */
    mem_free(teller.spare);
    teller.spare = NULL;
    mem_fail_from(1);
    for (int i = 0; i < 100 && teller.n_owed == 0; i++)
        (void)bridge_step(rig.bridge);
    told_once_there_is_memory();
}

/* What cannot even be refused now is refused later, and is not forgotten before. */
static void test_no_memory_to_refuse(void **state)
{
    (void)state;
    for (uint64_t memory = 1; memory <= 2;
         memory++) { /* for what is remembered of it; for the task */
        mem_free(teller.spare);
        teller.spare = NULL;
        order_without(memory, BRIDGE_GET, 64);
        told_once_there_is_memory();
    }
    order_without(1, BRIDGE_GET, 64); /* and goes with the teller */
    assert_true(mem_fail_never());
    assert_int_equal(teller.n_owed, 1);
}

/* A str has no U+0000 (PROTOCOL, section 5), whatever the model says. */
static void test_nul_in_the_answer(void **state)
{
    (void)state;
    static const char want[] = "a\xEF\xBF\xBD"
                               "b\xEF\xBF\xBD";
    const struct told told = {.teller = &teller};
    const struct bridge_event e = {
        .kind = BRIDGE_TOKEN, .token = 7, .text = "a\0b", .text_bytes = 4};
    tell_event(&told, &e);
    teller_flush(&teller);
    struct mail *mail = mailbox_take(&box);
    assert_non_null(mail);
    const struct batch *batch = (const struct batch *)(const void *)mail;
    const struct note *note = (const struct note *)(const void *)batch->bytes;
    assert_true(note->kind == NOTE_TOKEN && note->token == 7);
    assert_int_equal(note->bytes, sizeof want - 1);
    assert_memory_equal(note + 1, want, sizeof want - 1);
    mem_free(mail);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_notes),
        cmocka_unit_test(test_ends_of_the_chosen_one),
        cmocka_unit_test(test_nul_in_the_answer),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_no_memory_to_refuse),
    };
    rig_open(&rig, NULL, NULL);
    assert_ok(mailbox_create(&box));
    teller.bridge = rig.bridge;
    teller.model = rig.model;
    teller.out = &box;
    teller.metrics = &metrics;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    teller_free(&teller);
    mailbox_destroy(&box);
    rig_close(&rig);
    return failed;
}
