#include "tools/rxt/inspect/live.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static enum rxt_status append(struct live_list *l, const struct client_event *page)
{
    if (l->n + page->n_sessions > l->cap) {
        size_t cap = 2 * l->cap + page->n_sessions;
        struct client_session *more = realloc(l->session, cap * sizeof *more);
        if (!more)
            return RXT_ENOMEM;
        l->session = more;
        l->cap = cap;
    }
    if (page->n_sessions)
        memcpy(&l->session[l->n], page->sessions, page->n_sessions * sizeof *page->sessions);
    l->n += page->n_sessions;
    return RXT_OK;
}

enum rxt_status live_list(struct live_list *l, const struct live_options *o, const char *name,
                          struct rxt_error *err)
{
    struct client *c = NULL;
    struct client_event page = {.more = true};
    *l = (struct live_list){0};
    enum rxt_status st = connect_open(&c, o->turn, &o->keys, "rxt inspect", err);
    while (st == RXT_OK && page.more && !(name && l->n)) {
        const struct client_request r = {.verb = CLIENT_LIST,
                                         .session = l->n ? l->session[l->n - 1].session : NULL,
                                         .prefix = name,
                                         .limit = name != NULL};
        st = client_call(c, &r, &page, err);
        if (st == RXT_OK && page.more && page.n_sessions == 0)
            st = rxt_fail(err, RXT_EFORMAT, "the server's list does not end");
        if (st == RXT_OK)
            st = append(l, &page);
    }
    if (c)
        l->session_bytes = client_welcome(c)->session_bytes;
    client_close(&c);
    return st;
}

void live_list_free(struct live_list *l)
{
    free(l->session);
    *l = (struct live_list){0};
}

const struct client_session *live_find(const struct live_list *l, const char *name)
{
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->session[i].session, name) == 0)
            return &l->session[i];
    return NULL;
}

static enum rxt_status write_chunk(FILE *f, const struct client_event *e, struct rxt_error *err)
{
    if (e->offset == 0 && (fflush(f) != 0 || ftruncate(fileno(f), 0) != 0))
        return rxt_fail(err, RXT_EIO, "cannot empty a temporary file: %s", strerror(errno));
    if (e->offset == 0)
        rewind(f);
    if (fwrite(e->text, 1, e->text_bytes, f) != e->text_bytes)
        return rxt_fail(err, RXT_EIO, "cannot write a temporary file: %s", strerror(errno));
    return RXT_OK;
}

enum rxt_status live_export(FILE *f, const struct live_options *o, const char *session,
                            struct rxt_error *err)
{
    struct client *c = NULL;
    struct client_event e = {0};
    const struct client_request r = {.verb = CLIENT_EXPORT, .session = session};
    enum rxt_status st = connect_open(&c, o->state, &o->keys, "rxt inspect", err);
    if (st == RXT_OK)
        st = client_start(c, &r, err);
    while (st == RXT_OK && !e.final) {
        st = client_next(c, &e, err);
        if (st == RXT_OK && e.kind == CLIENT_CHUNK)
            st = write_chunk(f, &e, err);
    }
    client_close(&c);
    return st;
}

enum rxt_status live_diff(struct stm_slot_diff *out, const struct stm_config *cfg,
                          const struct live_options *o, const struct live_memory *a,
                          const struct live_memory *b, struct rxt_error *err)
{
    struct client *c = NULL;
    struct client_event e = {0};
    const uint32_t from = (uint32_t)a->version, to = (uint32_t)b->version;
    const struct client_request r = {.verb = CLIENT_DIFF,
                                     .session = a->session,
                                     .version = &from,
                                     .to = b->session,
                                     .to_version = &to};
    const size_t n = (size_t)cfg->n_layer * (size_t)cfg->n_slot;
    enum rxt_status st = connect_open(&c, o->state, &o->keys, "rxt inspect", err);
    if (st == RXT_OK)
        st = client_call(c, &r, &e, err);
    if (st == RXT_OK && (e.n_layer != (uint64_t)cfg->n_layer || e.n_slot != (uint64_t)cfg->n_slot))
        st = rxt_fail(err, RXT_EMISMATCH, "the server's memories have another shape");
    for (size_t i = 0; st == RXT_OK && i < n; i++)
        out[i] = (struct stm_slot_diff){.change = e.change[i], .cosine = e.cosine[i]};
    client_close(&c);
    return st;
}
