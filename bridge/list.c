/* LIST: rows of the store, with what the table knows of those that are in. */
#include "bridge/bridge_impl.h"

#include "kernels/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE = 64 }; /* rows of one piece of the reader's work */

static int by_name(const void *a, const void *b)
{
    return strcmp(a, b);
}

/* ---- on the reader's thread ------------------------------------------------------------- */

static bool is_held(const struct listing *l, const struct store_session *row)
{
    return (row->flags & STORE_HELD) ||
           (l->n_held && bsearch(row->name, l->held, l->n_held, sizeof *l->held, by_name));
}

/* The next page of rows that are asked for; *end = there are no more. */
static enum rxt_status read_page(struct task *t, struct store *s, bool *end, struct rxt_error *err)
{
    struct listing *l = t->listing;
    const char *prefix = t->r.prefix;
    size_t n = 0, n_prefix = strlen(prefix);
    struct store_session *row = mem_alloc_n(PAGE, sizeof *row);
    if (!row)
        return RXT_ENOMEM;
    enum rxt_status st = store_session_list(s, t->r.tenant, l->after, row, PAGE, &n, err);
    *end = n < PAGE;
    for (size_t i = 0; i < n && st == RXT_OK; i++) {
        int order = strncmp(row[i].name, prefix, n_prefix);
        if (order > 0) { /* names are sorted: there are no others */
            *end = true;
            break;
        }
        /* A name that no request can have: of another program, whatever it has put into the file.
         */
        bool told = task_check_name("session", row[i].name, NULL) == RXT_OK;
        bool asked = told && order == 0 && (!t->r.only_held || is_held(l, &row[i]));
        if (asked && l->n == t->r.limit) {
            l->more = *end = true;
            break;
        }
        (void)snprintf(l->after, sizeof l->after, "%s", row[i].name);
        if (asked)
            session_row_info(&row[i], &l->info[l->n++]);
    }
    mem_free(row);
    return st;
}

static enum rxt_status run_list(struct work *w, struct store *s, struct rxt_error *err)
{
    struct task *t = w->owner;
    bool end = false;
    TRY(read_page(t, s, &end, err));
    w->again = !end; /* others may go between two pages */
    return RXT_OK;
}

/* ---- on the engine's -------------------------------------------------------------------- */

/* Than its row in the store. */
static bool knows_more(const struct session *s)
{
    return s->held || s->phase == SESSION_RESIDENT;
}

static void list_done(struct work *w)
{
    struct task *t = w->owner;
    struct listing *l = t->listing;
    t->work_out = false;
    if (w->status != RXT_OK) {
        task_fail(t, w->status, w->error.text);
        return;
    }
    int32_t n = 0;
    for (int32_t i = 0; i < l->n; i++) {
        struct session *live = NULL;
        if (session_peek(t->bridge, t->r.tenant, l->info[i].session, &live) && knows_more(live))
            session_info(live, &l->info[i]);
        if (t->r.only_held && l->info[i].state != BRIDGE_HELD) /* repaired meanwhile */
            continue;
        l->info[n++] = l->info[i];
    }
    l->n = n;
    if (n == 0 && l->more) { /* an empty page would leave its reader nowhere to go on from */
        l->more = false;
        t->work_out = true;
        bridge_post_read(t->bridge, &l->work, run_list, list_done, t);
        return;
    }
    event_list(t);
    task_end(t);
}

/* The first names that can begin with the prefix come after the greatest one before it. */
static void start_after(const struct bridge_request *r, char after[BRIDGE_NAME_MAX])
{
    size_t n = strlen(r->prefix);
    (void)snprintf(after, BRIDGE_NAME_MAX, "%s", r->session);
    if (n == 0 || strcmp(r->session, r->prefix) >= 0)
        return;
    memset(after, 0xFF, BRIDGE_NAME_MAX - 1);
    after[BRIDGE_NAME_MAX - 1] = '\0';
    memcpy(after, r->prefix, n);
    after[n - 1]--;
}

struct list_call {
    struct bridge_session_info *out;
    size_t n;
    bool more;
};

static void on_list(void *user, const struct bridge_event *e)
{
    struct list_call *c = user;
    for (int32_t i = 0; i < e->n_list; i++)
        c->out[c->n++] = e->list[i];
    c->more = e->more;
}

enum rxt_status bridge_list(struct bridge *b, const char *tenant, const char *after,
                            struct bridge_session_info *out, size_t cap, size_t *n,
                            struct rxt_error *err)
{
    struct list_call c = {.out = out, .more = true};
    struct bridge_request r = {.verb = BRIDGE_LIST};
    (void)snprintf(r.tenant, sizeof r.tenant, "%s", tenant);
    (void)snprintf(r.session, sizeof r.session, "%s", after);
    *n = 0;
    while (c.more && c.n < cap) {
        r.limit = cap - c.n < BRIDGE_LIST_MAX ? (int32_t)(cap - c.n) : BRIDGE_LIST_MAX;
        TRY(bridge_call(b, &r, on_list, &c, err));
        if (c.n > 0)
            (void)snprintf(r.session, sizeof r.session, "%s", out[c.n - 1].session);
    }
    *n = c.n;
    return RXT_OK;
}

/* Notes what the table knows to be held: whoever was told so finds it listed, be the store slow or
 * its disk full. */
enum rxt_status list_prepare(struct task *t, struct rxt_error *err)
{
    struct listing *l = t->listing;
    const struct bridge *b = t->bridge;
    for (int pass = 0; pass < 2 && t->r.only_held; pass++) {
        size_t n = 0;
        for (size_t i = 0; i < BRIDGE_BUCKETS; i++)
            for (const struct session *s = b->bucket[i]; s; s = s->chain) {
                if (!s->held || strcmp(s->tenant->name, t->r.tenant) != 0)
                    continue;
                if (l->held)
                    (void)snprintf(l->held[n], sizeof l->held[n], "%s", s->name);
                n++;
            }
        if (n == 0 || l->held) {
            l->n_held = n;
            break;
        }
        l->held = mem_alloc_n(n, sizeof *l->held);
        if (!l->held)
            return rxt_fail(err, RXT_ENOMEM, "no memory for the names of %zu held sessions", n);
    }
    if (l->n_held)
        qsort(l->held, l->n_held, sizeof *l->held, by_name);
    return RXT_OK;
}

void list_start(struct task *t)
{
    struct listing *l = t->listing;
    start_after(&t->r, l->after);
    t->work_out = true;
    bridge_post_read(t->bridge, &l->work, run_list, list_done, t);
}
