/* A bridge over a model and a store in a temporary folder, and requests in one call. */
#ifndef RXT_TESTS_BRIDGE_RIG_H
#define RXT_TESTS_BRIDGE_RIG_H

#include "bridge/bridge_impl.h"

#include "tests/lib/test.h"

#define MODEL_DIR "models/demo-15m"
#define RIG_MAX_SEQ 192 /* of the model, and of the small one */

struct rig {
    struct rxt_model *model;
    struct bridge *bridge;
    char *dir;
    char store[300];
    struct bridge_config cfg;
};

/* model NULL: MODEL_DIR or, under a sanitizer without RXT_TEST_MODEL=bundled, a small random one,
 * which takes the same way through the bridge without a sanitizer's price for every product. It is
 * opened once and kept till the program ends. cfg NULL: defaults. */
void rig_open(struct rig *r, const char *model, const struct bridge_config *cfg);
void rig_close(struct rig *r);
void rig_reopen(struct rig *r); /* closes the bridge in order and opens it again on its store */

bool rig_bundled(void); /* whether it is MODEL_DIR, which remembers what it was told */

/* The rig of a file of tests that want no other. */
extern struct rig rig;
int rig_setup(void **state);
int rig_teardown(void **state);

/* What came of a request. */
struct outcome {
    bool accepted, done, memory, stored, final;
    enum bridge_event_kind last;
    enum rxt_status status; /* of ERROR, CANCELLED or MEMORY_FAILED */
    char error[256];
    int n_token;      /* TOKEN events */
    char text[4096];  /* their texts */
    int32_t ids[512]; /* of DONE */
    int32_t n_query, n_answer;
    enum rxt_finish finish;
    uint64_t read_version, pending_version;
    struct bridge_session_info info;

    int32_t position; /* of ACCEPTED */
    size_t price_bytes;
    char ran_in[BRIDGE_NAME_MAX];
    char key[32]; /* of ERROR */
    uint64_t retry_after_us;

    bool undecided;
    int32_t n_candidate, candidate, candidate_at_end;
    struct {
        int32_t ids[512], n; /* query, then answer */
    } candidates[BRIDGE_CANDIDATES];

    struct bridge_session_info list[8]; /* the first ones of LIST */
    int32_t n_list;
    bool more;
    struct stm_slot_diff diff[8]; /* the first slots of DIFF */

    struct bridge *bridge; /* for cancel_after */
    uint64_t ticket;
    int cancel_after; /* cancel at this many tokens; 0 = never */
};
void on_outcome(void *outcome, const struct bridge_event *e);
/* The word is in the text. Of the small model, whose texts are noise, nothing is asked. */
void assert_says(const struct outcome *o, const char *word);

struct bridge_request request(enum bridge_verb verb, const char *session);
struct bridge_request question(const char *session, const char *query); /* greedy */

/* Submits without waiting; the outcome fills while stepping. A refusal goes into it as well. */
void submit(struct rig *r, const struct bridge_request *q, struct outcome *o);
/* One step; where it had nothing to do, waits a millisecond at most for what other threads do. */
void step_or_wait(struct rig *r);
void step_until_final(struct rig *r, struct outcome *o);
void step_until_idle(struct rig *r);
/* Both, and the status of the outcome. */
enum rxt_status call(struct rig *r, const struct bridge_request *q, struct outcome *o);

/* Opens a session and answers the queries; asserts that all of it went well. out: the last one. */
void open_session(struct rig *r, const char *session);
void converse(struct rig *r, const char *session, const char *const *query, int n,
              struct outcome *out);

/* The ids of a turn, absorbed by a session that does nothing else: what the memory must be. */
void absorb(struct rig *r, const char *session, const int32_t *ids, int32_t n, struct outcome *out);
void get(struct rig *r, const char *session, struct outcome *out);
void assert_same_memory(const struct outcome *a, const struct outcome *b);

/* Counts again what the bridge counts as it goes: bytes reserved, idle and free. */
void assert_room(const struct bridge *b);

/* Stops the bridge's clock; add to what it shows. */
extern uint64_t test_now_us;
void stop_clock(struct rig *r);

#endif
