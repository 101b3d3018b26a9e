/* What is asked of the server, and when. All of it is a function of the seed, the session and the
 * turn, and fixed before the first request is sent: a server that answers late changes nothing of
 * the schedule (open loop), so that what it was late for is measured. */
#ifndef RXT_TOOLS_LOAD_PLAN_H
#define RXT_TOOLS_LOAD_PLAN_H

#include "bridge/client.h"

/* A distribution: "20" is fixed, "10-30" uniform, "exp:20" exponential of that mean, and
 * "lognormal:20:0.5" has that median and that sigma of the logarithm. */
#define SPREAD_MAX 1e9 /* of every number: as milliseconds, more than a week */
#define SPREAD_SIGMA_MAX 10.0
struct spread {
    enum { SPREAD_FIXED, SPREAD_UNIFORM, SPREAD_EXPONENTIAL, SPREAD_LOGNORMAL } kind;
    double a, b;
};
bool spread_parse(struct spread *s,
                  const char *text); /* false: none of these, negative, too large */
double spread_draw(const struct spread *s, double u); /* its quantile at u in (0,1) */
double spread_mean(const struct spread *s);

enum { PLAN_TURNS_MAX = 20000000 }; /* of all sessions: each has a record */

struct load_plan {
    uint32_t n_session, n_turn; /* sessions that speak at the same time, turns of each */
    uint32_t n_young; /* of them, the last ones: a fresh session every PLAN_YOUNG_TURNS turns */
    uint64_t seed;
    struct spread gap_us; /* from one turn of a session to its next */
    double ramp_us;       /* the sessions begin one after the other in this time */
    double end_us;        /* no turn is due at that time or later; 0 = all n_turn are */
    const char *query;    /* said at every turn, if neither words nor a script are */
    struct spread words;  /* of a question; a = 0: not asked for */
    struct spread tokens; /* max_tokens of an answer */
    char **script;        /* questions of a transcript; each session begins at another one */
    uint32_t n_script;
    double temperature;
    bool dry_run; /* answers only: nothing is journaled or remembered */
    /* Shares of all turns, and (slow, vanish) of the sessions. */
    double fork, cancel, resend, slow, vanish;
};

/* The gap that makes so many turns a second of all sessions: exponential (Poisson), or fixed. */
void plan_set_rate(struct load_plan *p, double rate, bool even);

/* Uniform in (0,1): the same for the same arguments. */
enum plan_purpose {
    PLAN_GAP,
    PLAN_WORDS,
    PLAN_TOKENS,
    PLAN_FORK,
    PLAN_CANCEL,
    PLAN_RESEND,
    PLAN_VANISH
};
double plan_draw(const struct load_plan *p, uint32_t session, uint32_t turn,
                 enum plan_purpose purpose);
/* Mixes 64 bits (splitmix64). */
uint64_t plan_mix(uint64_t x);
/* Below n, uniform; the next of its state. */
uint32_t plan_pick(uint64_t *state, uint32_t n);

#define PLAN_QUERY_MAX 8192
/* The turn's question and options; the text may lie in room. Session and id are the caller's. */
void plan_turn(const struct load_plan *p, uint32_t session, uint32_t turn,
               char room[PLAN_QUERY_MAX], struct client_request *r);
/* Whether this session is one of those on the connection that reads slowly: the last ones. */
bool plan_is_slow(const struct load_plan *p, uint32_t session);
/* Whether its connection is closed in the middle of some of its answers: those before the slow
 * ones. */
bool plan_vanishes(const struct load_plan *p, uint32_t session);
/* Neither: its latencies say something of the server. */
bool plan_is_plain(const struct load_plan *p, uint32_t session);
#define PLAN_VANISH_TURNS 0.25 /* share of their turns */

#define PLAN_YOUNG_TURNS 50u
bool plan_is_young(const struct load_plan *p, uint32_t session);
/* Where a turn takes place: the number of the session at the server, and of the turn in it. A young
 * session is one of the server's after the other. */
struct plan_place {
    uint32_t session, turn;
};
struct plan_place plan_place(const struct load_plan *p, uint32_t session, uint32_t turn);
uint32_t plan_places(const struct load_plan *p); /* sessions at the server, in all */

/* Reads {"query": ...} or {"q": ...} lines (JSONL). */
enum rxt_status plan_read_script(struct load_plan *p, const char *path, struct rxt_error *err);
void plan_free(struct load_plan *p);

/* ---- when -------------------------------------------------------------------------------- */

#define SCHEDULE_END_US 1e18 /* nothing is due later */

/* The turns of all sessions in the order of their times. With young sessions and fixed gaps, the
 * times are even and who speaks is drawn: every session once a round, and not before half of the
 * others have spoken. So old and young meet the same moments and the same neighbours. */
struct schedule; /* opaque */

enum rxt_status schedule_create(struct schedule **out, const struct load_plan *p);
void schedule_destroy(struct schedule **s); /* NULL-safe */
struct arrival {
    uint64_t due_us; /* since the start */
    uint32_t session, turn;
};
/* The next turn; false: there are no more. */
bool schedule_peek(const struct schedule *s, struct arrival *a);
void schedule_pop(struct schedule *s);

#endif
