#include "tools/rxt/load/plan.h"

#include "kernels/base/random.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- distributions ------------------------------------------------------------------------ */

/* A number that is neither negative nor beyond SPREAD_MAX, up to `end`. */
static bool number(const char **text, double *out, char end)
{
    char *rest;
    errno = 0;
    if (!(**text >= '0' && **text <= '9') && **text != '.')
        return false;
    *out = strtod(*text, &rest);
    if (errno || *rest != end || !(*out <= SPREAD_MAX))
        return false;
    *text = rest + (end != '\0');
    return true;
}

bool spread_parse(struct spread *s, const char *text)
{
    static const char exponential[] = "exp:", lognormal[] = "lognormal:";
    *s = (struct spread){.kind = SPREAD_FIXED};
    if (strncmp(text, exponential, sizeof exponential - 1) == 0) {
        s->kind = SPREAD_EXPONENTIAL;
        text += sizeof exponential - 1;
        return number(&text, &s->a, '\0');
    }
    if (strncmp(text, lognormal, sizeof lognormal - 1) == 0) {
        s->kind = SPREAD_LOGNORMAL;
        text += sizeof lognormal - 1;
        return number(&text, &s->a, ':') && number(&text, &s->b, '\0') && s->b <= SPREAD_SIGMA_MAX;
    }
    if (number(&text, &s->a, '\0'))
        return true;
    s->kind = SPREAD_UNIFORM;
    return number(&text, &s->a, '-') && number(&text, &s->b, '\0') && s->b >= s->a;
}

double spread_draw(const struct spread *s, double u)
{
    switch (s->kind) {
    case SPREAD_UNIFORM:
        return s->a + u * (s->b - s->a);
    case SPREAD_EXPONENTIAL:
        return -s->a * log1p(-u);
    case SPREAD_LOGNORMAL:
        return s->a * exp(s->b * random_normal(u));
    default:
        return s->a;
    }
}

double spread_mean(const struct spread *s)
{
    switch (s->kind) {
    case SPREAD_UNIFORM:
        return (s->a + s->b) / 2;
    case SPREAD_LOGNORMAL:
        return s->a * exp(s->b * s->b / 2);
    default:
        return s->a;
    }
}

void plan_set_rate(struct load_plan *p, double rate, bool even)
{
    p->gap_us = (struct spread){.kind = even ? SPREAD_FIXED : SPREAD_EXPONENTIAL,
                                .a = 1e6 * p->n_session / rate};
}

uint64_t plan_mix(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

uint32_t plan_pick(uint64_t *state, uint32_t n)
{
    *state = plan_mix(*state);
    return (uint32_t)((*state >> 32) * n >> 32);
}

double plan_draw(const struct load_plan *p, uint32_t session, uint32_t turn,
                 enum plan_purpose purpose)
{
    uint64_t x =
        plan_mix(plan_mix(p->seed ^ (uint64_t)purpose << 56) ^ ((uint64_t)session << 32 | turn));
    return random_uniform((uint32_t)(x >> 32), (uint32_t)x);
}

/* ---- what is said ------------------------------------------------------------------------- */

static void put_words(char room[PLAN_QUERY_MAX], uint64_t n, uint64_t seed)
{
    static const char *const word[] = {
        "the", "sea",  "is",    "blue", "and", "my",  "dog",  "likes", "to",  "run",  "in",
        "a",   "park", "where", "we",   "met", "two", "old",  "men",   "who", "told", "us",
        "of",  "snow", "bread", "and",  "how", "far", "home", "was",   "by",  "train"};
    size_t at = 0;
    for (uint64_t i = 0; i < n && at + 8 < PLAN_QUERY_MAX; i++) {
        const char *w = word[plan_mix(seed + i) % (sizeof word / sizeof *word)];
        at += (size_t)snprintf(room + at, PLAN_QUERY_MAX - at, "%s%s", i ? " " : "", w);
    }
}

static uint64_t count(const struct spread *s, double u)
{
    double x = round(spread_draw(s, u));
    return x < 1 ? 1 : x > 1e6 ? 1000000 : (uint64_t)x;
}

void plan_turn(const struct load_plan *p, uint32_t session, uint32_t turn,
               char room[PLAN_QUERY_MAX], struct client_request *r)
{
    *r = (struct client_request){.verb = CLIENT_TURN, .query = p->query, .dry_run = p->dry_run};
    r->temperature = (float)p->temperature;
    r->max_tokens = (uint32_t)count(&p->tokens, plan_draw(p, session, turn, PLAN_TOKENS));
    if (p->n_script > 0) {
        uint64_t first = (uint64_t)session * p->n_script / p->n_session;
        r->query = p->script[(first + turn) % p->n_script];
    } else if (p->words.a > 0) {
        put_words(room, count(&p->words, plan_draw(p, session, turn, PLAN_WORDS)),
                  plan_mix(p->seed ^ ((uint64_t)session << 32 | turn)));
        r->query = room;
    }
}

bool plan_is_slow(const struct load_plan *p, uint32_t session)
{
    return (double)(p->n_session - session) <= p->slow * p->n_session;
}

bool plan_vanishes(const struct load_plan *p, uint32_t session)
{
    return !plan_is_slow(p, session) &&
           (double)(p->n_session - session) <= (p->slow + p->vanish) * p->n_session;
}

bool plan_is_plain(const struct load_plan *p, uint32_t session)
{
    return !plan_is_slow(p, session) && !plan_vanishes(p, session);
}

bool plan_is_young(const struct load_plan *p, uint32_t session)
{
    return session >= p->n_session - p->n_young;
}

/* That a young session is, one after the other. */
static uint32_t count_fresh(const struct load_plan *p)
{
    return (p->n_turn + PLAN_YOUNG_TURNS - 1) / PLAN_YOUNG_TURNS;
}

struct plan_place plan_place(const struct load_plan *p, uint32_t session, uint32_t turn)
{
    const uint32_t old = p->n_session - p->n_young;
    if (!plan_is_young(p, session))
        return (struct plan_place){session, turn};
    const uint32_t first = old + (session - old) * count_fresh(p);
    return (struct plan_place){first + turn / PLAN_YOUNG_TURNS, turn % PLAN_YOUNG_TURNS};
}

uint32_t plan_places(const struct load_plan *p)
{
    return p->n_session - p->n_young + p->n_young * count_fresh(p);
}

static char *query_of(const char *line)
{
    json_t *o = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
    const char *q = json_string_value(json_object_get(o, "query"));
    if (!q)
        q = json_string_value(json_object_get(o, "q"));
    char *copy = q && *q && strlen(q) < PLAN_QUERY_MAX ? strdup(q) : NULL;
    json_decref(o);
    return copy;
}

enum rxt_status plan_read_script(struct load_plan *p, const char *path, struct rxt_error *err)
{
    enum rxt_status st = RXT_OK;
    char *line = NULL;
    size_t cap = 0;
    FILE *f = fopen(path, "re");
    if (!f)
        return rxt_fail(err, RXT_EIO, "cannot read %.180s: %s", path, strerror(errno));
    while (st == RXT_OK && getline(&line, &cap, f) >= 0) {
        char **more = realloc(p->script, (p->n_script + 1) * sizeof *more);
        if (!more) {
            st = RXT_ENOMEM;
            break;
        }
        p->script = more;
        p->script[p->n_script] = query_of(line);
        if (p->script[p->n_script])
            p->n_script++;
        else
            st = rxt_fail(err, RXT_EFORMAT,
                          "%.150s, line %u: an object with a text \"query\" or \"q\" of 1 to %d "
                          "bytes is wanted",
                          path, p->n_script + 1, PLAN_QUERY_MAX - 1);
    }
    if (st == RXT_OK && p->n_script == 0)
        st = rxt_fail(err, RXT_EFORMAT, "%.150s has no lines", path);
    free(line);
    (void)fclose(f);
    return st;
}

void plan_free(struct load_plan *p)
{
    for (uint32_t i = 0; i < p->n_script; i++)
        free(p->script[i]);
    free(p->script);
    p->script = NULL;
    p->n_script = 0;
}

/* ---- when --------------------------------------------------------------------------------- */

struct schedule {
    const struct load_plan *plan;
    /* A heap: the session whose next turn is due first is on top. In rounds: only the next turn. */
    struct arrival *heap;
    uint32_t n;
    double *exact_us; /* [n_session]: gaps add up without rounding */
    /* Rounds: slot by slot. */
    uint64_t slot;
    uint32_t *order;    /* [n_session]: who had a slot of this round, then who is to have one */
    uint64_t *has_slot; /* [n_session]: 1 + its last one */
    uint64_t state;     /* of the draws */
};

static bool before(const struct arrival *a, const struct arrival *b)
{
    return a->due_us != b->due_us ? a->due_us < b->due_us : a->session < b->session;
}

static void sink(struct schedule *s, uint32_t at)
{
    struct arrival a = s->heap[at];
    for (uint32_t child; (child = 2 * at + 1) < s->n; at = child) {
        if (child + 1 < s->n && before(&s->heap[child + 1], &s->heap[child]))
            child++;
        if (!before(&s->heap[child], &a))
            break;
        s->heap[at] = s->heap[child];
    }
    s->heap[at] = a;
}

/* Whole microseconds. What comes later than a clock can say is due then: fmin takes that also for
 * what is no number. */
static uint64_t whole_us(double exact_us)
{
    return (uint64_t)fmin(exact_us, SCHEDULE_END_US);
}

/* Fixed gaps begin spread over one gap, so that the sessions do not speak at the same moment; drawn
 * ones begin with a draw. */
static double first_due(const struct load_plan *p, uint32_t session)
{
    double place = (double)session / p->n_session;
    double gap = p->gap_us.kind == SPREAD_FIXED
                     ? place * p->gap_us.a
                     : spread_draw(&p->gap_us, plan_draw(p, session, 0, PLAN_GAP));
    return gap + place * p->ramp_us;
}

static bool in_time(const struct load_plan *p, double due_us)
{
    return p->end_us == 0 || due_us < p->end_us;
}

static bool in_rounds(const struct load_plan *p)
{
    return p->n_young > 0 && p->gap_us.kind == SPREAD_FIXED;
}

/* Who has the slot: of those that had none in this round, one that had none of the slots just
 * before. At least half of all that are left may have it, so that few draws are needed. */
static uint32_t draw_slot(struct schedule *s)
{
    const uint32_t n = s->plan->n_session, place = (uint32_t)(s->slot % n);
    uint32_t at, session;
    do {
        at = place + plan_pick(&s->state, n - place);
        session = s->order[at];
    } while (s->has_slot[session] && s->slot + 1 - s->has_slot[session] <= n / 2);
    s->order[at] = s->order[place];
    s->order[place] = session;
    s->has_slot[session] = s->slot + 1;
    return session;
}

static void take_slot(struct schedule *s)
{
    const struct load_plan *p = s->plan;
    const uint64_t turn = s->slot / p->n_session;
    const double due_us = (double)s->slot * p->gap_us.a / p->n_session;
    s->n = turn < p->n_turn && in_time(p, due_us);
    if (s->n > 0)
        s->heap[0] = (struct arrival){whole_us(due_us), draw_slot(s), (uint32_t)turn};
}

static void fill_heap(struct schedule *s)
{
    const struct load_plan *p = s->plan;
    for (uint32_t i = 0; i < p->n_session && p->n_turn > 0; i++) {
        s->exact_us[i] = first_due(p, i);
        if (in_time(p, s->exact_us[i]))
            s->heap[s->n++] = (struct arrival){.due_us = whole_us(s->exact_us[i]), .session = i};
    }
    for (uint32_t i = s->n / 2; i-- > 0;)
        sink(s, i);
}

enum rxt_status schedule_create(struct schedule **out, const struct load_plan *p)
{
    struct schedule *s = *out = calloc(1, sizeof *s);
    if (!s)
        return RXT_ENOMEM;
    s->plan = p;
    s->state = p->seed;
    s->exact_us = calloc(p->n_session, sizeof *s->exact_us);
    s->heap = calloc(p->n_session, sizeof *s->heap);
    s->order = calloc(p->n_session, sizeof *s->order);
    s->has_slot = calloc(p->n_session, sizeof *s->has_slot);
    if (!s->exact_us || !s->heap || !s->order || !s->has_slot) {
        schedule_destroy(out);
        return RXT_ENOMEM;
    }
    for (uint32_t i = 0; i < p->n_session; i++)
        s->order[i] = i;
    if (in_rounds(p))
        take_slot(s);
    else
        fill_heap(s);
    return RXT_OK;
}

void schedule_destroy(struct schedule **s)
{
    if (!*s)
        return;
    free((*s)->exact_us);
    free((*s)->heap);
    free((*s)->order);
    free((*s)->has_slot);
    free(*s);
    *s = NULL;
}

bool schedule_peek(const struct schedule *s, struct arrival *a)
{
    if (s->n > 0)
        *a = s->heap[0];
    return s->n > 0;
}

static void replace_top(struct schedule *s)
{
    struct arrival *a = &s->heap[0];
    double *due_us = &s->exact_us[a->session];
    if (++a->turn < s->plan->n_turn)
        *due_us += spread_draw(&s->plan->gap_us, plan_draw(s->plan, a->session, a->turn, PLAN_GAP));
    if (a->turn < s->plan->n_turn && in_time(s->plan, *due_us)) {
        a->due_us = whole_us(*due_us);
    } else {
        s->heap[0] = s->heap[--s->n];
    }
    if (s->n > 0)
        sink(s, 0);
}

void schedule_pop(struct schedule *s)
{
    s->slot++;
    if (in_rounds(s->plan))
        take_slot(s);
    else
        replace_top(s);
}
