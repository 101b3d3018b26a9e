/* rxt session: look after the sessions of a store. */
#include "tools/rxt/cli.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static struct {
    bool json;
    const char *to, *file;
    uint64_t version;
} opt = {.version = BRIDGE_HEAD};

static const struct option options[] = {
    {"json", OPTION_FLAG, &opt.json, NULL, "one object a session"},
    {"version", OPTION_SEED, &opt.version, "V",
     "fork, rewind: which one (fork: default the newest)"},
    {"to", OPTION_TEXT, &opt.to, "NAME", "fork: name of the new session"},
    {"file", OPTION_TEXT, &opt.file, "FILE",
     "export, import: the file; export: /dev/stdout or another pipe, too"},
    OPTION_MORE(session_options),
    {0},
};

static const char *state_name(enum bridge_state s)
{
    static const char *const name[] = {"cold", "resident", "answering", "remembering", "held"};
    return name[s];
}

static void print_date(int64_t us, char out[32])
{
    time_t t = (time_t)(us / 1000000);
    struct tm utc;
    (void)gmtime_r(&t, &utc);
    (void)strftime(out, 32, "%Y-%m-%d %H:%M:%S", &utc);
}

static json_t *info_json(const struct bridge_session_info *i)
{
    char seed[24]; /* 64 bits do not fit into an integer of JSON */
    (void)snprintf(seed, sizeof seed, "%" PRIu64, i->seed);
    json_t *o = json_pack("{ss ss sI sI ss ss sb sI sI}", "session", i->session, "state",
                          state_name(i->state), "version", (json_int_t)i->version, "turns",
                          (json_int_t)i->n_turn, "stm_dtype", dtype_name(i->stm_dtype), "seed",
                          seed, "mixed_class", i->mixed_class, "created_us",
                          (json_int_t)i->created_us, "used_us", (json_int_t)i->used_us);
    if (i->held_reason[0])
        (void)json_object_set_new(o, "held_reason", json_string(i->held_reason));
    if (i->origin[0])
        (void)json_object_update_new(o, json_pack("{ss sI}", "origin", i->origin, "origin_version",
                                                  (json_int_t)i->origin_version));
    if (i->has_hash)
        (void)json_object_set_new(o, "stm_hash", json_hash(i->stm_hash));
    return o;
}

/* ---- list ------------------------------------------------------------------------------- */

enum { PAGE = 256 };

static enum rxt_status list(struct bridge *b, struct rxt_error *err)
{
    static struct bridge_session_info page[PAGE];
    char after[BRIDGE_NAME_MAX] = "";
    size_t n = 0, all = 0;
    do {
        TRY(bridge_list(b, "default", after, page, PAGE, &n, err));
        if (all == 0 && n > 0 && !opt.json)
            printf("%-24s %9s %9s  %-9s %s\n", "session", "version", "turns", "state", "last used");
        for (size_t i = 0; i < n; i++) {
            char date[32];
            print_date(page[i].used_us, date);
            if (opt.json)
                print_json(info_json(&page[i]));
            else
                printf("%-24s %9" PRIu64 " %9" PRIu64 "  %-9s %s\n", page[i].session,
                       page[i].version, page[i].n_turn, state_name(page[i].state), date);
        }
        all += n;
        if (n > 0)
            memcpy(after, page[n - 1].session, sizeof after);
    } while (n == PAGE);
    if (all == 0 && !opt.json)
        printf("no sessions yet: rxt chat makes one\n");
    return RXT_OK;
}

/* ---- show ------------------------------------------------------------------------------- */

struct shown {
    const struct rxt_model *model;
    struct bridge_session_info info;
    int32_t *ids;
    int32_t n_query, n_answer;
    enum rxt_status status;
};

static void on_show(void *user, const struct bridge_event *e)
{
    struct shown *s = user;
    if (e->kind != BRIDGE_DONE)
        return;
    s->info = *e->info;
    s->n_query = e->usage.n_query;
    s->n_answer = e->usage.n_answer;
    size_t n = (size_t)s->n_query + (size_t)s->n_answer;
    s->ids = malloc((n + 1) * sizeof *s->ids);
    if (s->ids && n)
        memcpy(s->ids, e->ids, n * sizeof *s->ids);
    if (!s->ids)
        s->status = RXT_ENOMEM;
}

static void print_shown(const struct shown *s)
{
    const struct bridge_session_info *i = &s->info;
    char *query = text_of_ids(s->model, s->ids, s->n_query);
    char *answer = text_of_ids(s->model, s->ids + s->n_query, s->n_answer);
    if (opt.json) {
        json_t *o = info_json(i);
        (void)json_object_update_new(
            o, json_pack("{ss ss so so}", "last_query", query ? query : "", "last_answer",
                         answer ? answer : "", "last_query_ids", json_ids(s->ids, s->n_query),
                         "last_answer_ids", json_ids(s->ids + s->n_query, s->n_answer)));
        print_json(o);
    } else {
        char created[32], used[32];
        print_date(i->created_us, created);
        print_date(i->used_us, used);
        printf("session      %s (%s)\nversion      %" PRIu64 " (%" PRIu64 " turns)\n", i->session,
               state_name(i->state), i->version, i->n_turn);
        printf("memory       %s, ", dtype_name(i->stm_dtype));
        for (int k = 0; k < 16; k++)
            printf("%02x", i->stm_hash[k]);
        printf("\nseed         %" PRIu64 "\ncreated      %s\nlast used    %s\n", i->seed, created,
               used);
        if (i->origin[0])
            printf("origin       %s, version %" PRIu64 "\n", i->origin, i->origin_version);
        if (i->held_reason[0])
            printf("held         %s\n", i->held_reason);
        if (s->n_query)
            printf("last turn    > %s\n             %s\n", query ? query : "",
                   answer ? answer : "");
    }
    free(query);
    free(answer);
}

static enum rxt_status show(struct bridge *b, const struct rxt_model *m, const char *name,
                            struct rxt_error *err)
{
    struct bridge_request r;
    struct shown s = {.model = m};
    TRY(session_request(&r, BRIDGE_GET, name, err));
    enum rxt_status st = bridge_call(b, &r, on_show, &s, err);
    if (st == RXT_OK)
        st = s.status;
    if (st == RXT_OK)
        print_shown(&s);
    free(s.ids);
    return st;
}

/* ---- verbs that write ------------------------------------------------------------------- */

struct verb {
    const char *name;
    enum bridge_verb verb;
    bool needs_version, needs_to, needs_file;
    bool has_version; /* what it has done has one */
    bool computes;    /* brings the session in */
};
static const struct verb verbs[] = {
    {"fork", BRIDGE_FORK, .needs_to = true, .has_version = true},
    {"rewind", BRIDGE_REWIND, .needs_version = true, .has_version = true, .computes = true},
    {"reset", BRIDGE_RESET, .has_version = true, .computes = true},
    {.name = "erase", .verb = BRIDGE_ERASE},
    {"export", BRIDGE_EXPORT, .needs_file = true},
    {"import", BRIDGE_IMPORT, .needs_file = true, .has_version = true},
};

static const char *missing_option(const struct verb *v)
{
    if (v->needs_version && opt.version == BRIDGE_HEAD)
        return "--version V";
    if (v->needs_to && !opt.to)
        return "--to NAME";
    return v->needs_file && !opt.file ? "--file FILE" : NULL;
}

/* Whether it is written to standard output itself, where nothing else may stand then. */
static bool is_stdout(const char *path)
{
    struct stat a, b;
    return path && stat(path, &a) == 0 && fstat(STDOUT_FILENO, &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

static enum rxt_status write_verb(struct bridge *b, const struct verb *v, const char *name,
                                  struct rxt_error *err)
{
    struct bridge_request r;
    struct bridge_session_info info = {0};
    const bool quiet = v->verb == BRIDGE_EXPORT && is_stdout(opt.file);
    TRY(session_request(&r, v->verb, name, err));
    r.version = opt.version;
    r.path = opt.file;
    if (opt.to)
        TRY(session_name(r.to, opt.to, err));
    TRY(bridge_call(b, &r, keep_info, &info, err));
    if (quiet)
        return RXT_OK;
    if (opt.json) {
        json_t *o =
            json_pack("{ss ss}", "session", v->verb == BRIDGE_FORK ? r.to : name, "done", v->name);
        if (v->has_version)
            (void)json_object_set_new(o, "version", json_integer((json_int_t)info.version));
        print_json(o);
    } else if (v->verb == BRIDGE_FORK) {
        printf("session \"%s\" begins at version %" PRIu64 " of \"%s\"\n", r.to,
               opt.version == BRIDGE_HEAD ? info.version : opt.version, name);
    } else if (v->verb == BRIDGE_EXPORT) {
        printf("session \"%s\" is in %s\n", name, opt.file);
    } else if (v->verb == BRIDGE_ERASE) {
        printf("session \"%s\" is erased\n", name);
    } else {
        printf("%s: session \"%s\" is at version %" PRIu64 "\n", v->name, name, info.version);
    }
    return RXT_OK;
}

/* The line of a command that was understood. */
struct task {
    const char *name; /* of the session */
    const struct verb *verb;
    bool is_list; /* else show, if there is no verb */
};

static enum rxt_status do_task(const struct app *a, void *arg, int *code, struct rxt_error *err)
{
    const struct task *t = arg;
    (void)code;
    if (t->verb)
        return write_verb(a->bridge, t->verb, t->name, err);
    return t->is_list ? list(a->bridge, err) : show(a->bridge, a->model, t->name, err);
}

int command_session(int argc, char **argv)
{
    struct command_line line = {
        .usage = "rxt session list|show|fork|rewind|reset|erase|export|import [NAME] [OPTIONS]",
        .about = "Looks after the sessions of a store. NAME is the session (or --session NAME).",
        .options = options,
        .min_args = 1,
        .max_args = 2,
    };
    int code = command_line_parse(&line, argc, argv);
    if (code >= 0)
        return code;
    struct task t = {.name = line.n_arg > 1 ? line.arg[1] : common.session,
                     .is_list = strcmp(line.arg[0], "list") == 0};
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
        if (strcmp(line.arg[0], verbs[i].name) == 0)
            t.verb = &verbs[i];
    if (!t.verb && !t.is_list && strcmp(line.arg[0], "show") != 0) {
        (void)fprintf(stderr, "rxt: there is no \"session %s\"\nusage: %s\n", line.arg[0],
                      line.usage);
        return EXIT_USAGE;
    }
    if (t.verb && missing_option(t.verb)) {
        (void)fprintf(stderr, "rxt: session %s needs %s\n", t.verb->name, missing_option(t.verb));
        return EXIT_USAGE;
    }
    common.computes_nothing = t.is_list || (t.verb && !t.verb->computes);
    return run_command(&(struct bridge_config){0}, do_task, &t);
}
