/* rxt inspect: look into the sessions of a store, of an export or of a server. It changes nothing;
 * a store may be in use meanwhile. */
#include "tools/rxt/cli.h"
#include "tools/rxt/inspect/views.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    const char *session, *tenant, *filter, *sort, *against, *query, *png, *html, *colour;
    uint64_t version;
    int32_t turns, layer, width;
    bool reverse, text, verify, replay, json;
    struct live_options live;
} opt = {.version = VERSION_HEAD, .turns = 100, .layer = -1, .width = -1};

static const struct option options[] = {
    {"session", OPTION_TEXT, &opt.session, "NAME", "this session: its turns and what they wrote"},
    {"version", OPTION_SEED, &opt.version, "V", "this version of its memory (default: the newest)"},
    {"against", OPTION_TEXT, &opt.against, "WHAT",
     "compare it with V, SESSION or SESSION:V (default: V - 1)"},
    {"query", OPTION_TEXT, &opt.query, "TEXT", "which slots an answer to this would read"},
    {"layer", OPTION_INT, &opt.layer, "L", "... token by token in this layer"},
    {"turns", OPTION_INT, &opt.turns, "N", "only the newest N turns (default 100; 0 = all)"},
    {"verify", OPTION_FLAG, &opt.verify, NULL, "check seals, hashes and values of all there is"},
    {"replay", OPTION_FLAG, &opt.replay, NULL, "... and compute the journal again: the same bits?"},
    {"filter", OPTION_TEXT, &opt.filter, "TEXT", "list: names with TEXT in them, or a state"},
    {"sort", OPTION_TEXT, &opt.sort, "KEY", "list: by version, image_bytes, age, state, ..."},
    {"reverse", OPTION_FLAG, &opt.reverse, NULL, "list: largest first"},
    {"text", OPTION_FLAG, &opt.text, NULL, "show what was said; without it no text of users"},
    {"json", OPTION_FLAG, &opt.json, NULL, "one object, all figures"},
    {"png", OPTION_TEXT, &opt.png, "FILE", "the maps as a picture"},
    {"html", OPTION_TEXT, &opt.html, "FILE", "a page with everything about the session"},
    {"colour", OPTION_TEXT, &opt.colour, "WHEN", "auto (default), always or never"},
    {"width", OPTION_INT, &opt.width, "N", "columns to fill (default: of the terminal; 0 = any)"},
    {"connect", OPTION_TEXT, &opt.live.turn, "ENDPOINT",
     "look into a server (rxtd); for example tcp://127.0.0.1:7110"},
    {"state", OPTION_TEXT, &opt.live.state, "ENDPOINT",
     "with --connect and --session: where it gives exports and comparisons (rxtd --state)"},
    {"server-key", OPTION_TEXT, &opt.live.keys.server_key, "KEY",
     "with --connect: CURVE, the server's"},
    {"secret-key-file", OPTION_TEXT, &opt.live.keys.secret_key_file, "FILE",
     "with --connect: CURVE, what rxt keygen wrote for this client"},
    {"tenant", OPTION_TEXT, &opt.tenant, "NAME", "whose sessions (default: default)"},
    {"store", OPTION_TEXT, &common.store, "FILE",
     "where sessions are kept (default: $XDG_DATA_HOME/rxt/rxt.db)"},
    OPTION_MORE(model_options),
    {0},
};

/* ---- what is asked for ------------------------------------------------------------------- */

/* A session's version is looked at if any of its options is there, its turns if none is. */
static bool wants_version(void)
{
    return opt.version != VERSION_HEAD || opt.against || opt.query || opt.html;
}

static bool wants_turns(void)
{
    return opt.session && !opt.verify && (!wants_version() || opt.html);
}

/* A question alone is about what it reads, not about the memory as a whole. */
static bool wants_memory(void)
{
    return opt.html || (wants_version() && (!opt.query || opt.against));
}

/* The same for a server. */
static const char *wrong_with_server(bool has_path)
{
    const struct live_options *o = &opt.live;
    if (!o->turn && (o->state || o->keys.server_key || o->keys.secret_key_file))
        return "--state, --server-key and --secret-key-file go with --connect ENDPOINT";
    if (!o->turn)
        return NULL;
    if (has_path || common.store)
        return "--connect looks into a server: no store beside it";
    if (opt.tenant)
        return "the keys say which tenant a server sees, not --tenant";
    if (opt.session && !o->state)
        return "--session of a server needs --state ENDPOINT, where it gives exports (rxtd "
               "--state)";
    if (opt.verify && !opt.session)
        return "--verify over a connection needs --session NAME; the whole of a store is verified "
               "at its file";
    return NULL;
}

/* The sentence about options that do not go together; NULL if they do. */
static const char *contradiction(bool has_path)
{
    const char *server = wrong_with_server(has_path);
    if (server)
        return server;
    if (opt.session && (opt.filter || opt.sort || opt.reverse))
        return "--filter, --sort and --reverse are for the list of sessions";
    if (opt.replay && !opt.verify)
        return "--replay goes with --verify";
    if (opt.verify && (opt.version != VERSION_HEAD || opt.against || opt.query || opt.png))
        return "--verify checks all versions; leave --version, --against, --query and --png out";
    if (opt.json && (opt.png || opt.html))
        return "--json, --png and --html: one at a time";
    if (opt.turns < 0 || opt.width < -1 || opt.layer < -1)
        return "--turns, --width and --layer are not negative";
    if (opt.layer >= 0 && !opt.query)
        return "--layer goes with --query TEXT";
    if (opt.colour && strcmp(opt.colour, "auto") != 0 && strcmp(opt.colour, "always") != 0 &&
        strcmp(opt.colour, "never") != 0)
        return "--colour is auto, always or never";
    return NULL;
}

/* The model, where something asked for takes one. A list does not; turns and versions are shown
 * without what they would add, if there is none or it is another. */
static enum rxt_status find_model(struct rxt_model **m, const struct look *l, struct rxt_error *err)
{
    bool must = opt.query || opt.replay || common.model;
    struct store_session x;
    struct rxt_error why = {0};
    if (!opt.session && !opt.replay)
        return RXT_OK;
    enum rxt_status st = open_model(m, &why);
    if (st == RXT_OK && opt.session && !must) {
        st = store_session_get(l->store, l->tenant, opt.session, &x, err);
        if (st != RXT_OK)
            return st;
        if (memcmp(x.model_hash, rxt_model_info(*m)->hash, sizeof x.model_hash) != 0)
            rxt_model_close(m);
    }
    if (st == RXT_OK || !must)
        return RXT_OK;
    return rxt_fail(err, st, "%s", why.text[0] ? why.text : rxt_status_text(st));
}

static enum rxt_status look(struct report *r, const struct look *l, bool *good,
                            struct rxt_error *err)
{
    if (!opt.session && !opt.verify)
        return view_sessions(r, l, err);
    if (opt.session)
        TRY(view_session(r, l, err));
    if (opt.verify)
        TRY(view_verify(r, l, opt.replay, good, err));
    if (wants_turns())
        TRY(view_turns(r, l, err));
    if (wants_memory())
        TRY(view_version(r, l, err));
    return opt.query ? view_query(r, l, err) : RXT_OK;
}

/* ---- how it is shown --------------------------------------------------------------------- */

static enum rxt_status show(const struct report *r, struct rxt_error *err)
{
    if (opt.json) {
        json_t *o = report_json(r);
        if (!o)
            return RXT_ENOMEM;
        print_json(o);
        return RXT_OK;
    }
    if (opt.png)
        TRY(report_png(r, opt.png, err));
    if (opt.html)
        TRY(report_html(r, opt.html, err));
    if (!opt.png && !opt.html) {
        struct text_style style = text_style_for(stdout, opt.width, opt.colour);
        report_text(r, &style, stdout);
    }
    if (fflush(stdout) != 0 || ferror(stdout))
        return rxt_fail(err, RXT_EIO, "cannot write all of the output");
    return RXT_OK;
}

/* What the server has: all of its list, or one session with its row. */
static enum rxt_status open_live(struct source *s, struct live_list *live, struct look *l,
                                 struct rxt_error *err)
{
    TRY(live_list(live, &opt.live, l->session, err));
    l->live = live;
    l->server = &opt.live;
    return l->session ? source_connect(s, &opt.live, l->tenant, l->session, err) : RXT_OK;
}

static enum rxt_status inspect(const char *path, bool *good, struct rxt_error *err)
{
    struct source source = {0};
    struct live_list live = {0};
    struct rxt_model *m = NULL;
    struct report r = {0};
    struct look l = {.tenant = opt.tenant ? opt.tenant : "default",
                     .session = opt.session,
                     .text = opt.text,
                     .filter = opt.filter,
                     .sort = opt.sort,
                     .reverse = opt.reverse,
                     .turns = opt.turns,
                     .version = opt.version,
                     .against = opt.against,
                     .query = opt.query,
                     .layer = opt.layer,
                     .whole = opt.html != NULL};
    enum rxt_status st = opt.live.turn ? open_live(&source, &live, &l, err)
                                       : source_open(&source, path, l.tenant, err);
    l.store = source.store;
    l.is_export = source.is_export;
    bool damaged = source.damaged && opt.verify; /* then that is what is shown */
    if (damaged)
        st = RXT_OK;
    if (st == RXT_OK && source.is_export)
        opt.session = l.session = source.session;
    if (st == RXT_OK && !l.session && wants_version())
        st = rxt_fail(err, RXT_EINVAL,
                      "--version, --against, --query and --html need --session NAME");
    if (st == RXT_OK && !damaged)
        st = find_model(&m, &l, err);
    l.model = m;
    const char *kind = opt.live.turn ? "server" : source.is_export ? "export" : "store";
    if (l.session)
        report_open(&r, "session %.60s of %s %.100s", l.session, kind, path);
    else
        report_open(&r, "%s %.150s", kind, path);
    *good = !damaged;
    if (st == RXT_OK)
        st = damaged ? view_damage(&r, &l, source.damaged, err) : look(&r, &l, good, err);
    if (st == RXT_OK)
        st = r.status;
    if (st == RXT_OK)
        st = show(&r, err);
    report_close(&r);
    rxt_model_close(&m);
    source_close(&source);
    live_list_free(&live);
    return st;
}

int command_inspect(int argc, char **argv)
{
    struct command_line line = {
        .usage = "rxt inspect [STORE|EXPORT|--connect ENDPOINT] [OPTIONS]",
        .about =
            "Looks into the sessions of a store (which may be in use), of a server, or into an "
            "exported session. Without\n"
            "options it lists them; with --session one of them, with --version its memory. "
            "docs/inspect.md\n"
            "says how to read it. Exit code 1 also when --verify finds something wrong.",
        .options = options,
        .max_args = 1,
    };
    int code = command_line_parse(&line, argc, argv);
    if (code >= 0)
        return code;
    const char *wrong = contradiction(line.n_arg > 0);
    if (wrong) {
        (void)fprintf(stderr, "rxt: %s\nusage: %s\n", wrong, line.usage);
        return EXIT_USAGE;
    }
    struct rxt_error err = {0};
    char store[4096];
    const char *path = opt.live.turn ? opt.live.turn : line.n_arg ? line.arg[0] : common.store;
    enum rxt_status st = RXT_OK;
    bool good = true;
    if (!path) {
        st = default_store(store, sizeof store, &err);
        path = store;
    }
    if (st == RXT_OK)
        st = inspect(path, &good, &err);
    if (st != RXT_OK)
        return complain(st, &err);
    return good ? 0 : 1;
}
