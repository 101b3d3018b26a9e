#include "tools/rxt/connect.h"

#include "tools/rxt/cli.h"

#include <errno.h>
#include <histedit.h>
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

/* A question and its answer; false if it was refused. */
static bool converse(const struct talk *t, const char *query)
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
    free_answer(&a);
    return st == RXT_OK;
}

static int run_script(const struct talk *t)
{
    bool from_stdin = !t->o->script || strcmp(t->o->script, "-") == 0;
    FILE *f = from_stdin ? stdin : fopen(t->o->script, "r");
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
        if (!converse(t, line)) {
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

static const char *prompt_text(EditLine *el)
{
    (void)el;
    return "> ";
}

static int run_terminal(const struct talk *t, const struct client_event *start)
{
    EditLine *el = el_init("rxt", stdin, stdout, stderr);
    History *lines = history_init();
    HistEvent event;
    if (!el || !lines)
        return complain(RXT_ENOMEM, NULL);
    (void)history(lines, &event, H_SETSIZE, 500);
    (void)el_set(el, EL_PROMPT, prompt_text);
    (void)el_set(el, EL_EDITOR, "emacs");
    (void)el_set(el, EL_HIST, history, lines);
    (void)el_set(el, EL_SIGNAL, 0);
    printf("%s at %s, session \"%s\", version %" PRIu64 ". Ctrl-D leaves.\n",
           client_welcome(t->client)->model, t->o->endpoint, t->o->session, start->version);
    for (;;) {
        int n = 0;
        const char *got = el_gets(el, &n);
        char *line = got && n > 0 ? strndup(got, (size_t)n) : NULL;
        if (!line)
            break;
        line[strcspn(line, "\r\n")] = '\0';
        bool leave = strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0;
        if (line[0])
            (void)history(lines, &event, H_ENTER, line);
        if (line[0] == '/' && !leave)
            printf("(not sent: of the commands only /quit works over a connection)\n");
        else if (line[0] && !leave)
            (void)converse(t, line);
        free(line);
        if (leave)
            break;
    }
    printf("\n(session \"%s\" is kept)\n", t->o->session);
    history_end(lines);
    el_end(el);
    return 0;
}

static enum rxt_status read_key(char key[64], const char *path, struct rxt_error *err)
{
    FILE *f = fopen(path, "re");
    bool ok = f && fgets(key, 64, f);
    if (f)
        (void)fclose(f);
    if (!ok)
        return rxt_fail(err, RXT_EIO, "cannot read the secret key in %.150s", path);
    key[strcspn(key, "\r\n")] = '\0';
    return RXT_OK;
}

enum rxt_status connect_use_keys(struct client_config *cfg, const struct connect_keys *keys,
                                 char room[64], struct rxt_error *err)
{
    if (!keys->server_key && !keys->secret_key_file)
        return RXT_OK;
    if (!keys->server_key || !keys->secret_key_file)
        return rxt_fail(err, RXT_EINVAL, "CURVE wants --server-key and --secret-key-file");
    TRY(read_key(room, keys->secret_key_file, err));
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
