#include "tools/rxt/connect.h"

#include "tools/rxt/cli.h"
#include "tools/rxt/secret.h"
#include "tools/rxt/terminal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct talk {
    const struct connect_options *o;
    struct client *client;
    volatile sig_atomic_t *interrupted;
};

/* One turn on its way. */
struct answer {
    char *text;
    size_t bytes, cap;
    json_t *ids;
    struct client_event done, memory;
};

static void keep(struct answer *a, const struct client_event *e)
{
    if (!a->text || a->bytes + e->text_bytes + 1 > a->cap) {
        size_t cap = 2 * a->cap + e->text_bytes + 256;
        char *p = realloc(a->text, cap);
        if (!p)
            return;
        a->text = p;
        a->cap = cap;
    }
    memcpy(a->text + a->bytes, e->text, e->text_bytes);
    a->bytes += e->text_bytes;
    a->text[a->bytes] = '\0';
    for (size_t i = 0; i < e->n_ids; i++)
        json_array_append_new(a->ids, json_integer(e->ids[i]));
}

static void free_answer(struct answer *a)
{
    free(a->text);
    json_decref(a->ids);
}

/* Runs one turn up to its last event. Ctrl-C ends the answer. */
static enum rxt_status run_turn(const struct talk *t, const char *query, struct answer *a,
                                struct rxt_error *err)
{
    struct client_request r = t->o->turn;
    struct client_event e = {0};
    r.query = query;
    a->ids = json_array();
    *t->interrupted = 0;
    TRY(client_start(t->client, &r, err));
    while (!e.final) {
        TRY(client_next(t->client, &e, err));
        if (e.kind == CLIENT_TOKEN) {
            keep(a, &e);
            if (!t->o->json) {
                (void)fwrite(e.text, 1, e.text_bytes, stdout);
                (void)fflush(stdout);
            }
        } else if (e.kind == CLIENT_DONE) {
            a->done = e;
        } else if (e.kind == CLIENT_MEMORY) {
            a->memory = e;
        }
        if (*t->interrupted) {
            *t->interrupted = 0;
            client_cancel(t->client);
        }
    }
    return RXT_OK;
}

static json_t *turn_json(const struct talk *t, const char *query, const struct answer *a)
{
    const struct client_event *d = &a->done, *m = &a->memory;
    return json_pack(
        "{ss ss ss# sO ss sI so s{sI sI sI sI sI}}", "session", t->o->session, "query", query,
        "answer", a->text ? a->text : "", (int)a->bytes, "answer_ids", a->ids, "finish", d->finish,
        "version", (json_int_t)(m->version ? m->version : d->version), "stm_hash",
        json_hash(m->stm_hash), "timings", "queue_us", (json_int_t)d->queue_us, "first_token_us",
        (json_int_t)d->first_token_us, "answer_us", (json_int_t)d->answer_us, "journal_us",
        (json_int_t)d->journal_us, "memory_us", (json_int_t)m->memory_us);
}

/* A question and its answer; false if it was refused. Their texts are not kept. */
static bool converse(const struct talk *t, const char *query, struct client_event *done,
                     struct client_event *memory)
{
    struct rxt_error err = {""};
    struct answer a = {0};
    enum rxt_status st = run_turn(t, query, &a, &err);
    if (!t->o->json)
        (void)putchar('\n');
    if (st == RXT_OK && t->o->json)
        print_json(turn_json(t, query, &a));
    else if (st != RXT_OK && t->o->json)
        print_json(json_pack("{ss ss}", "error", err.text[0] ? err.text : rxt_status_text(st),
                             "status", rxt_status_name(st)));
    else if (st == RXT_ECANCELLED)
        printf("(stopped: this turn is discarded and not remembered; Ctrl-C again leaves)\n");
    else if (st != RXT_OK)
        (void)complain(st, &err);
    *done = a.done;
    *memory = a.memory;
    free_answer(&a);
    return st == RXT_OK;
}

static int run_script(const struct talk *t)
{
    bool from_stdin = !t->o->script || strcmp(t->o->script, "-") == 0;
    FILE *f = from_stdin ? stdin : fopen(t->o->script, "r");
    struct client_event done, memory;
    char *line = NULL;
    size_t cap = 0;
    int code = 0;
    if (!f) {
        (void)fprintf(stderr, "rxt: cannot read %s: %s\n", t->o->script, strerror(errno));
        return 1;
    }
    for (ssize_t n; (n = getline(&line, &cap, f)) >= 0 && !*t->interrupted;) {
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
            line[--n] = '\0';
        if (!t->o->json)
            printf("> %s\n", line);
        if (!converse(t, line, &done, &memory)) {
            code = 1;
            if (!t->o->keep_going)
                break;
        }
    }
    free(line);
    if (!from_stdin)
        (void)fclose(f);
    return code;
}

/* ---- terminal --------------------------------------------------------------------------- */

static bool remote_turn(void *arg, const char *query, struct chat_seen *seen)
{
    const struct talk *t = arg;
    struct client_event done, memory;
    if (!converse(t, query, &done, &memory))
        return false;
    *seen = (struct chat_seen){
        .version = memory.version ? memory.version : done.version,
        .n_query = done.n_query,
        .n_answer = done.n_answer,
        .first_token_us = done.first_token_us,
        .answer_us = done.answer_us,
        .journal_us = done.journal_us,
        .memory_us = memory.memory_us,
    };
    return true;
}

static bool remote_verb(void *arg, enum bridge_verb verb, uint64_t version, const char *to,
                        struct chat_seen *seen)
{
    static const enum client_verb wire[] = {[BRIDGE_GET] = CLIENT_GET,
                                            [BRIDGE_FORK] = CLIENT_FORK,
                                            [BRIDGE_REWIND] = CLIENT_REWIND,
                                            [BRIDGE_RESET] = CLIENT_RESET};
    const struct talk *t = arg;
    struct rxt_error err = {""};
    struct client_event e = {0};
    const uint32_t which = (uint32_t)version;
    const struct client_request r = {.verb = wire[verb],
                                     .session = t->o->session,
                                     .to = to,
                                     .version = verb == BRIDGE_REWIND ? &which : NULL};
    enum rxt_status st = client_call(t->client, &r, &e, &err);
    if (st != RXT_OK) {
        (void)complain(st, &err);
        return false;
    }
    seen->version = e.version;
    seen->n_turn = e.n_turn;
    memcpy(seen->stm_hash, e.stm_hash, sizeof seen->stm_hash);
    return true;
}

static int run_terminal(struct talk *t, const struct client_event *start)
{
    const struct chat_terminal terminal = {.session = t->o->session,
                                           .interrupted = t->interrupted,
                                           .arg = t,
                                           .turn = remote_turn,
                                           .verb = remote_verb};
    const struct chat_seen seen = {.version = start->version};
    char greeting[400];
    (void)snprintf(greeting, sizeof greeting, "%s at %s", client_welcome(t->client)->model,
                   t->o->endpoint);
    enum rxt_status st = chat_talk(&terminal, &seen, greeting);
    return st == RXT_OK ? 0 : complain(st, NULL);
}

/* ---- start ------------------------------------------------------------------------------ */
enum rxt_status connect_use_keys(struct client_config *cfg, const struct connect_keys *keys,
                                 char room[64], struct rxt_error *err)
{
    if (!keys->server_key && !keys->secret_key_file)
        return RXT_OK;
    if (!keys->server_key || !keys->secret_key_file)
        return rxt_fail(err, RXT_EINVAL, "CURVE wants --server-key and --secret-key-file");
    TRY(secret_read(room, keys->secret_key_file, err));
    cfg->server_key = keys->server_key;
    cfg->secret_key = room;
    return RXT_OK;
}

enum rxt_status connect_open(struct client **out, const char *endpoint,
                             const struct connect_keys *keys, const char *name,
                             struct rxt_error *err)
{
    char key[64];
    struct client_config cfg = {.endpoint = endpoint, .name = name, .timeout_ms = 30000};
    TRY(connect_use_keys(&cfg, keys, key, err));
    return client_open(out, &cfg, err);
}

static enum rxt_status begin(const struct connect_options *o, struct client **client,
                             struct client_event *start, struct rxt_error *err)
{
    TRY(connect_open(client, o->endpoint, &o->keys, "rxt chat", err));
    const struct client_request open = {
        .verb = CLIENT_OPEN, .session = o->session, .seed = o->turn.seed};
    return client_call(*client, &open, start, err);
}

int chat_connected(const struct connect_options *o, volatile sig_atomic_t *interrupted)
{
    struct rxt_error err = {""};
    struct client_event start = {0};
    struct talk t = {.o = o, .interrupted = interrupted};
    enum rxt_status st = begin(o, &t.client, &start, &err);
    int code = 1;
    if (st != RXT_OK)
        (void)complain(st, &err);
    else if (o->script || !isatty(STDIN_FILENO))
        code = run_script(&t);
    else
        code = run_terminal(&t, &start);
    client_close(&t.client);
    return code;
}
