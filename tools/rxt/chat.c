/* rxt chat: a conversation in the terminal, or a script of one. */
#include "tools/rxt/cli.h"
#include "tools/rxt/connect.h"
#include "tools/rxt/terminal.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct connect_options remote;

static struct {
    const char *script, *system, *thinking, *stm_dtype;
    bool json, keep_going, keep_text;
    uint64_t seed;
    double temperature, top_p;
    int32_t top_k, max_tokens;
} opt = {.temperature = 0.3, .top_p = 0.9, .thinking = "fast", .stm_dtype = "f32"};

static const struct option options[] = {
    {"script", OPTION_TEXT, &opt.script, "FILE",
     "one question a line instead of a terminal; - = standard input"},
    {"json", OPTION_FLAG, &opt.json, NULL, "with --script: one object a turn"},
    {"keep-going", OPTION_FLAG, &opt.keep_going, NULL, "with --script: go on after a refused line"},
    {"temperature", OPTION_REAL, &opt.temperature, "T", "0 = greedy (default: 0.3)"},
    {"top-p", OPTION_REAL, &opt.top_p, "P",
     "keep the likeliest tokens up to this mass (default: 0.9)"},
    {"top-k", OPTION_INT, &opt.top_k, "K", "keep the K likeliest tokens (default: 0 = all)"},
    {"max-tokens", OPTION_INT, &opt.max_tokens, "N", "of an answer (default: as many as fit)"},
    {"seed", OPTION_SEED, &opt.seed, "N", "of a new session and of sampling (default: random)"},
    {"system", OPTION_TEXT, &opt.system, "TEXT", "absorbed first when the session is new"},
    {"thinking", OPTION_TEXT, &opt.thinking, "MODE", "fast (default), extended or auto"},
    {"stm-dtype", OPTION_TEXT, &opt.stm_dtype, "TYPE",
     "memory of a new session: f32 (default) or bf16"},
    {"keep-text", OPTION_FLAG, &opt.keep_text, NULL, "store the text of questions beside the ids"},
    {"connect", OPTION_TEXT, &remote.endpoint, "ENDPOINT",
     "talk to a server (rxtd), which has model and store; for example tcp://127.0.0.1:7110"},
    {"server-key", OPTION_TEXT, &remote.keys.server_key, "KEY",
     "with --connect: CURVE, the server's"},
    {"secret-key-file", OPTION_TEXT, &remote.keys.secret_key_file, "FILE",
     "with --connect: CURVE, what rxt keygen wrote for this client"},
    OPTION_MORE(session_options),
    {0},
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

/* One turn on its way: what its events say. */
struct chat_turn {
    const struct rxt_model *model;
    bool stream; /* print tokens as they come */
    bool done, final;
    enum rxt_status status;
    char error[256];
    char *answer; /* text so far */
    size_t answer_bytes, answer_cap;
    json_t *query_ids, *answer_ids;
    enum rxt_finish finish;
    struct bridge_usage usage;
    struct bridge_session_info info;
};

static void keep_text_of(struct chat_turn *t, const char *text, size_t n)
{
    if (t->answer_bytes + n + 1 > t->answer_cap) {
        size_t cap = 2 * t->answer_cap + n + 256;
        char *p = realloc(t->answer, cap);
        if (!p)
            return;
        t->answer = p;
        t->answer_cap = cap;
    }
    memcpy(t->answer + t->answer_bytes, text, n);
    t->answer_bytes += n;
    t->answer[t->answer_bytes] = '\0';
}

static void on_event(void *user, const struct bridge_event *e)
{
    struct chat_turn *t = user;
    t->final |= e->final;
    switch (e->kind) {
    case BRIDGE_ACCEPTED:
    case BRIDGE_UNDECIDED: /* of turns with several answers */
        break;
    case BRIDGE_TOKEN:
        keep_text_of(t, e->text, e->text_bytes);
        if (t->stream) {
            (void)fwrite(e->text, 1, e->text_bytes, stdout);
            (void)fflush(stdout);
        }
        break;
    case BRIDGE_DONE:
        t->done = true;
        t->finish = e->finish;
        t->query_ids = json_ids(e->ids, e->usage.n_query);
        t->answer_ids = json_ids(e->ids + e->usage.n_query, e->usage.n_answer);
        t->usage = e->usage;
        t->info = *e->info;
        break;
    case BRIDGE_MEMORY:
        t->usage = e->usage;
        t->info = *e->info;
        break;
    case BRIDGE_MEMORY_FAILED:
    case BRIDGE_CANCELLED:
    case BRIDGE_ERROR:
        t->status = e->status;
        (void)snprintf(t->error, sizeof t->error, "%s", e->error);
        break;
    }
}

static void free_turn(struct chat_turn *t)
{
    free(t->answer);
    json_decref(t->query_ids);
    json_decref(t->answer_ids);
}

static enum rxt_thinking thinking_mode(void)
{
    if (strcmp(opt.thinking, "extended") == 0)
        return RXT_EXTENDED;
    return strcmp(opt.thinking, "auto") == 0 ? RXT_AUTO : RXT_FAST;
}

/* Runs one turn up to its last event. The first Ctrl-C ends the answer. */
static enum rxt_status run_turn(struct bridge *b, struct chat_turn *t, const char *query,
                                struct rxt_error *err)
{
    struct bridge_request r;
    uint64_t ticket = 0;
    TRY(session_request(&r, BRIDGE_TURN, common.session, err));
    r.prompt = (struct rxt_prompt){.query = query, .thinking = thinking_mode()};
    r.sampling = (struct sampling){.temperature = (float)opt.temperature,
                                   .top_k = opt.top_k,
                                   .top_p = (float)opt.top_p,
                                   .seed = opt.seed};
    r.max_tokens = opt.max_tokens;
    TRY(bridge_submit(b, &r, on_event, t, &ticket, err));
    while (!t->final) {
        if (interrupted) {
            interrupted = 0;
            bridge_cancel(b, ticket);
        }
        if (!bridge_step(b))
            bridge_wait(b, 50000);
    }
    return t->status == RXT_OK ? RXT_OK : rxt_fail(err, t->status, "%s", t->error);
}

static const char *finish_name(enum rxt_finish f)
{
    static const char *const name[] = {"eos", "length", "cancel"};
    return name[f];
}

static json_t *turn_json(const char *query, const struct chat_turn *t)
{
    const struct bridge_usage *u = &t->usage;
    return json_pack("{ss ss sO ss# sO ss sI so s{sI sI sI sI sI}}", "session", common.session,
                     "query", query, "query_ids", t->query_ids, "answer",
                     t->answer ? t->answer : "", (int)t->answer_bytes, "answer_ids", t->answer_ids,
                     "finish", finish_name(t->finish), "version", (json_int_t)t->info.version,
                     "stm_hash", json_hash(t->info.stm_hash), "timings", "queue_us",
                     (json_int_t)u->queue_us, "first_token_us", (json_int_t)u->first_token_us,
                     "answer_us", (json_int_t)u->answer_us, "journal_us", (json_int_t)u->journal_us,
                     "memory_us", (json_int_t)u->memory_us);
}

/* ---- scripts ---------------------------------------------------------------------------- */

static bool script_line(struct bridge *b, const struct rxt_model *m, const char *query, size_t n)
{
    struct rxt_error err = {0};
    struct chat_turn t = {.model = m, .stream = !opt.json};
    if (!opt.json)
        printf("> %s\n", query);
    enum rxt_status st = strlen(query) == n
                             ? run_turn(b, &t, query, &err)
                             : rxt_fail(&err, RXT_EINVAL, "the question has a zero byte in it");
    if (!opt.json)
        (void)putchar('\n');
    if (st == RXT_OK && opt.json)
        print_json(turn_json(query, &t));
    if (st != RXT_OK && opt.json)
        print_json(json_pack("{ss ss}", "error", err.text[0] ? err.text : rxt_status_text(st),
                             "status", rxt_status_name(st)));
    else if (st != RXT_OK)
        (void)complain(st, &err);
    free_turn(&t);
    return st == RXT_OK;
}

static enum rxt_status run_script(struct bridge *b, const struct rxt_model *m, int *code,
                                  struct rxt_error *err)
{
    bool from_stdin = strcmp(opt.script, "-") == 0;
    FILE *f = from_stdin ? stdin : fopen(opt.script, "r");
    if (!f)
        return rxt_fail(err, RXT_EIO, "cannot read %.180s: %s", opt.script, strerror(errno));
    char *line = NULL;
    size_t cap = 0;
    for (ssize_t n; (n = getline(&line, &cap, f)) >= 0 && !interrupted;) {
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
            line[--n] = '\0';
        if (!script_line(b, m, line, (size_t)n)) {
            *code = 1;
            if (!opt.keep_going)
                break;
        }
    }
    free(line);
    if (!from_stdin)
        (void)fclose(f);
    return RXT_OK;
}

/* ---- terminal --------------------------------------------------------------------------- */

struct local { /* who answers in this process */
    struct bridge *bridge;
    const struct rxt_model *model;
};

static void see(struct chat_seen *s, const struct bridge_session_info *i)
{
    s->version = i->version;
    s->n_turn = i->n_turn;
    memcpy(s->stm_hash, i->stm_hash, sizeof s->stm_hash);
}

static bool local_verb(void *arg, enum bridge_verb verb, uint64_t version, const char *to,
                       struct chat_seen *seen)
{
    const struct local *l = arg;
    struct rxt_error err = {0};
    struct bridge_request r;
    struct bridge_session_info got = {0};
    enum rxt_status st = session_request(&r, verb, common.session, &err);
    r.version = version;
    if (st == RXT_OK)
        st = session_name(r.to, to, &err);
    if (st == RXT_OK)
        st = bridge_call(l->bridge, &r, keep_info, &got, &err);
    if (st == RXT_OK)
        see(seen, &got);
    else
        (void)complain(st, &err);
    return st == RXT_OK;
}

static bool local_turn(void *arg, const char *query, struct chat_seen *seen)
{
    const struct local *l = arg;
    struct rxt_error err = {0};
    struct chat_turn t = {.model = l->model, .stream = true};
    enum rxt_status st = run_turn(l->bridge, &t, query, &err);
    printf("\n");
    if (st == RXT_ECANCELLED)
        printf("(stopped: this turn is discarded and not remembered; Ctrl-C again leaves)\n");
    else if (st != RXT_OK)
        (void)complain(st, &err);
    if (st == RXT_OK && t.finish == RXT_FINISH_LENGTH)
        printf("(the answer reached the length limit)\n");
    if (st == RXT_OK) {
        see(seen, &t.info);
        seen->n_query = (uint64_t)t.usage.n_query;
        seen->n_answer = (uint64_t)t.usage.n_answer;
        seen->first_token_us = t.usage.first_token_us;
        seen->answer_us = t.usage.answer_us;
        seen->journal_us = t.usage.journal_us;
        seen->memory_us = t.usage.memory_us;
    }
    free_turn(&t);
    return st == RXT_OK;
}

static enum rxt_status run_terminal(struct bridge *b, const struct rxt_model *m,
                                    const struct bridge_session_info *start)
{
    struct local l = {.bridge = b, .model = m};
    struct chat_seen seen = {0};
    const struct chat_terminal t = {.session = common.session,
                                    .interrupted = &interrupted,
                                    .arg = &l,
                                    .turn = local_turn,
                                    .verb = local_verb};
    see(&seen, start);
    return chat_talk(&t, &seen, rxt_model_info(m)->name);
}

/* ---- start ------------------------------------------------------------------------------ */

/* A new session may absorb a system prompt before its first turn. */
static enum rxt_status absorb_system(struct bridge *b, const struct rxt_model *m,
                                     struct bridge_session_info *info, struct rxt_error *err)
{
    int32_t max = rxt_model_info(m)->max_seq_len;
    struct bridge_request r;
    size_t n = 0;
    int32_t *ids = malloc((size_t)max * sizeof *ids);
    if (!ids)
        return RXT_ENOMEM;
    enum rxt_status st = rxt_system_ids(m, opt.system, ids, (size_t)max, &n, err);
    if (st == RXT_OK)
        st = session_request(&r, BRIDGE_REMEMBER, common.session, err);
    if (st == RXT_OK) {
        r.ids = ids;
        r.n_ids = n;
        st = bridge_call(b, &r, keep_info, info, err);
    }
    free(ids);
    return st;
}

static enum rxt_status open_session(struct bridge *b, const struct rxt_model *m,
                                    struct bridge_session_info *info, struct rxt_error *err)
{
    struct bridge_request r;
    TRY(session_request(&r, BRIDGE_OPEN, common.session, err));
    r.seed = opt.seed;
    TRY(bridge_call(b, &r, NULL, NULL, err));
    TRY(session_request(&r, BRIDGE_GET, common.session, err));
    TRY(bridge_call(b, &r, keep_info, info, err));
    if (opt.system && info->n_turn == 0)
        return absorb_system(b, m, info, err);
    return RXT_OK;
}

static void catch_interrupts(void)
{
    /* Without SA_RESTART: a read at the prompt ends, and with it the chat. */
    struct sigaction action = {.sa_handler = on_interrupt};
    (void)sigemptyset(&action.sa_mask);
    (void)sigaction(SIGINT, &action, NULL);
}

static enum rxt_status talk(const struct app *a, void *arg, int *code, struct rxt_error *err)
{
    struct bridge_session_info info = {0};
    (void)arg;
    TRY(open_session(a->bridge, a->model, &info, err));
    catch_interrupts();
    return opt.script ? run_script(a->bridge, a->model, code, err)
                      : run_terminal(a->bridge, a->model, &info);
}

/* The same conversation in a server. */
static int talk_connected(void)
{
    if (opt.system) {
        (void)fprintf(stderr, "rxt: --system needs the model at hand: not with --connect\n");
        return EXIT_USAGE;
    }
    remote.session = common.session;
    remote.script = opt.script;
    remote.json = opt.json;
    remote.keep_going = opt.keep_going;
    remote.turn = (struct client_request){
        .verb = CLIENT_TURN,
        .session = common.session,
        .thinking = (enum client_thinking)thinking_mode(),
        .temperature = (float)opt.temperature,
        .top_p = (float)opt.top_p,
        .top_k = (uint32_t)opt.top_k,
        .max_tokens = (uint32_t)opt.max_tokens,
        .seed = opt.seed,
    };
    catch_interrupts();
    return chat_connected(&remote, &interrupted);
}

static bool one_of(const char *what, const char *value, const char *const *words)
{
    for (int i = 0; words[i]; i++)
        if (strcmp(value, words[i]) == 0)
            return true;
    (void)fprintf(stderr, "rxt: --%s %s: use one of", what, value);
    for (int i = 0; words[i]; i++)
        (void)fprintf(stderr, " %s", words[i]);
    (void)fprintf(stderr, "\n");
    return false;
}

int command_chat(int argc, char **argv)
{
    struct command_line line = {
        .usage = "rxt chat [OPTIONS]",
        .about =
            "Talks to a model that remembers. Every turn is on disk before it is reported, so the\n"
            "conversation goes on where it was, also after a crash. With --script FILE it plays\n"
            "the questions of a file; a refused line ends it with exit code 1.",
        .options = options,
    };
    int code = command_line_parse(&line, argc, argv);
    if (code >= 0)
        return code;
    if (!one_of("thinking", opt.thinking,
                (const char *const[]){"fast", "extended", "auto", NULL}) ||
        !one_of("stm-dtype", opt.stm_dtype, (const char *const[]){"f32", "bf16", NULL}))
        return EXIT_USAGE;
    if (remote.endpoint)
        return talk_connected();
    const struct bridge_config cfg = {
        .stm_dtype = strcmp(opt.stm_dtype, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32,
        .keep_text = opt.keep_text,
    };
    return run_command(&cfg, talk, NULL);
}
