#include "tools/rxtd/config.h"

#include "tools/rxt/options.h"
#include "tools/rxt/secret.h"

#include <ctype.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Numbers are read as 64 bits and brought into the narrower fields afterwards, limits checked. */
static struct {
    const char *config, *model, *backend, *dtype, *store, *sync, *secret_key_file;
    const char *turn, *state, *admin, *metrics, *clients, *stm_dtype;
    bool check_config, keep_text, null_model;
    int32_t threads, max_seq_len, max_live, max_queue;
    uint64_t max_bytes, credit_max, max_inflight, max_connections, max_requests, max_kept_bytes;
    uint64_t max_tenant_connections, max_tenant_queue, max_tenant_sessions, max_tenant_bytes;
    uint64_t max_import_bytes, max_bulk, max_tenant_bulk;
    uint64_t null_step_us;
    uint64_t heartbeat_ms, grace_ms, stall_ms, handshake_ms, high_water, drain_ms;
} in;

static const struct option options[] = {
    {"config", OPTION_TEXT, &in.config, "FILE",
     "the file; default /etc/rxt/rxtd.ini if it is there"},
    {"check-config", OPTION_FLAG, &in.check_config, NULL, "say whether the configuration is sound"},
    {"model", OPTION_TEXT, &in.model, "DIR", "checkpoint folder"},
    {"null-model", OPTION_FLAG, &in.null_model, NULL,
     "words instead of a model, nothing kept: to measure clients"},
    {"null-step-us", OPTION_SEED, &in.null_step_us, "N", "of it: time of a token (default 0)"},
    {"backend", OPTION_TEXT, &in.backend, "NAME",
     "cpu, cuda, or auto (default): cuda if a device is there, else cpu"},
    {"dtype", OPTION_TEXT, &in.dtype, "TYPE",
     "weights in memory: f32 or bf16 (default: as the file)"},
    {"threads", OPTION_INT, &in.threads, "N", "compute threads (default: all processors)"},
    {"max-seq-len", OPTION_INT, &in.max_seq_len, "N", "tokens of one turn (default: of the model)"},
    {"store", OPTION_TEXT, &in.store, "FILE", "where sessions are kept"},
    {"sync", OPTION_TEXT, &in.sync, "MODE",
     "full: turns survive power loss (default); normal: a crash"},
    {"keep-text", OPTION_FLAG, &in.keep_text, NULL, "keep transcripts beside the token ids"},
    {"stm-dtype", OPTION_TEXT, &in.stm_dtype, "TYPE", "of new sessions: f32 (default) or bf16"},
    {"max-bytes", OPTION_SEED, &in.max_bytes, "N", "of all resident sessions (default 4 GiB)"},
    {"max-live", OPTION_INT, &in.max_live, "N",
     "answers that decode at the same time (default 16)"},
    {"max-queue", OPTION_INT, &in.max_queue, "N", "requests on their way (default 1024)"},
    {"turn", OPTION_TEXT, &in.turn, "ENDPOINT", "of turns (default tcp://127.0.0.1:7110)"},
    {"state", OPTION_TEXT, &in.state, "ENDPOINT", "of export, import, diff (default: none)"},
    {"admin", OPTION_TEXT, &in.admin, "ENDPOINT", "of health and control, ipc:// (default: none)"},
    {"metrics", OPTION_TEXT, &in.metrics, "HOST:PORT", "for Prometheus and probes (default: none)"},
    {"secret-key-file", OPTION_TEXT, &in.secret_key_file, "FILE", "CURVE: the server's secret key"},
    {"clients", OPTION_TEXT, &in.clients, "FILE", "CURVE: lines of PUBLIC-KEY TENANT"},
    {"credit-max", OPTION_SEED, &in.credit_max, "N",
     "bytes sent ahead to a client (default 16 MiB)"},
    {"max-inflight", OPTION_SEED, &in.max_inflight, "N", "requests of a connection (default 4096)"},
    {"max-connections", OPTION_SEED, &in.max_connections, "N", "(default 4096)"},
    {"max-tenant-connections", OPTION_SEED, &in.max_tenant_connections, "N",
     "of one tenant (default: max-connections)"},
    {"max-tenant-queue", OPTION_SEED, &in.max_tenant_queue, "N",
     "requests on their way of one tenant (default: max-queue)"},
    {"max-tenant-sessions", OPTION_SEED, &in.max_tenant_sessions, "N",
     "that one tenant may have (default: any number)"},
    {"max-tenant-bytes", OPTION_SEED, &in.max_tenant_bytes, "N",
     "of one tenant's sessions with something to do (default: max-bytes)"},
    {"max-requests", OPTION_SEED, &in.max_requests, "N", "of the server (default 16384)"},
    {"max-kept-bytes", OPTION_SEED, &in.max_kept_bytes, "N",
     "of answers that can be resumed (default 64 MiB)"},
    {"max-import-bytes", OPTION_SEED, &in.max_import_bytes, "N", "of one session (default 1 GiB)"},
    {"max-bulk", OPTION_SEED, &in.max_bulk, "N",
     "exports and imports at the same time (default 4)"},
    {"max-tenant-bulk", OPTION_SEED, &in.max_tenant_bulk, "N",
     "of one tenant (default: with CURVE a quarter of max-bulk, at least 1)"},
    {"heartbeat-ms", OPTION_SEED, &in.heartbeat_ms, "N", "(default 5000)"},
    {"grace-ms", OPTION_SEED, &in.grace_ms, "N", "answers can be resumed so long (default 60000)"},
    {"stall-ms", OPTION_SEED, &in.stall_ms, "N",
     "a client may give no credit so long (default 30000)"},
    {"handshake-ms", OPTION_SEED, &in.handshake_ms, "N", "(default 5000)"},
    {"high-water", OPTION_SEED, &in.high_water, "N",
     "messages queued to a connection (default 10000)"},
    {"drain-ms", OPTION_SEED, &in.drain_ms, "N",
     "for what runs, after SIGTERM (default 30000); 5 s later, or after a second one, it ends in "
     "any "
     "case"},
    {0},
};

static int wrong(const char *where, const char *name, const char *text, const char *why)
{
    (void)fprintf(stderr, "rxtd: %s: %s = %s: %s\n", where, name, text, why);
    return EXIT_USAGE;
}

static int set(const char *where, const char *name, const char *text)
{
    bool known = false;
    char *copy = strdup(text); /* lives as long as the program */
    if (!copy)
        return wrong(where, name, text, "out of memory");
    if (option_set(options, name, copy, &known))
        return -1; /* NOLINT(clang-analyzer-unix.Malloc): the option keeps it */
    int code = wrong(where, name, text, known ? "not a value for it" : "there is no such name");
    free(copy);
    return code;
}

/* ---- the file ---------------------------------------------------------------------------- */

struct file {
    const char *path;
    int code;
};

static int on_line(void *user, const char *section, const char *name, const char *value)
{
    struct file *f = user;
    (void)section; /* sections only order the file */
    if (f->code >= 0)
        return 1;
    f->code = strcmp(name, "config") == 0 ? wrong(f->path, name, value, "a file cannot name a file")
                                          : set(f->path, name, value);
    return 1;
}

static int read_file(const char *path, bool must)
{
    struct file f = {.path = path, .code = -1};
    int line = ini_parse(path, on_line, &f);
    if (line == -1 && !must)
        return -1;
    if (line == -1) {
        (void)fprintf(stderr, "rxtd: cannot read %s\n", path);
        return EXIT_USAGE;
    }
    if (line > 0 && f.code < 0) {
        (void)fprintf(stderr, "rxtd: %s, line %d: write name = value\n", path, line);
        return EXIT_USAGE;
    }
    return f.code;
}

/* ---- the environment --------------------------------------------------------------------- */

static int read_environment(void)
{
    for (const struct option *o = options; o->name; o++) {
        char name[64] = "RXTD_";
        size_t n = strlen(name);
        for (const char *p = o->name; *p; p++)
            name[n++] = (char)(*p == '-' ? '_' : toupper((unsigned char)*p));
        name[n] = '\0';
        const char *text = getenv(name);
        int code = text && o->value != &in.config ? set("environment", o->name, text) : -1;
        if (code >= 0)
            return code;
    }
    return -1;
}

/* ---- all together ------------------------------------------------------------------------ */

static int narrow(uint32_t *out, uint64_t value, const char *name, uint32_t max)
{
    if (value > max) {
        (void)fprintf(stderr, "rxtd: %s = %llu: at most %u\n", name, (unsigned long long)value,
                      max);
        return EXIT_USAGE;
    }
    *out = (uint32_t)value;
    return -1;
}

static int read_secret(const char **out, const char *path)
{
    static char key[SERVER_KEY_TEXT + 1];
    struct rxt_error err = {""};
    if (secret_read(key, path, &err) != RXT_OK) {
        (void)fprintf(stderr, "rxtd: %s\n", err.text);
        return EXIT_USAGE;
    }
    *out = key;
    return -1;
}

static int take_words(struct rxtd_config *c)
{
    if (in.sync && strcmp(in.sync, "full") != 0 && strcmp(in.sync, "normal") != 0)
        return wrong("configuration", "sync", in.sync, "full or normal");
    c->bridge.sync =
        in.sync && strcmp(in.sync, "normal") == 0 ? STORE_SYNC_NORMAL : STORE_SYNC_FULL;
    if (in.stm_dtype && strcmp(in.stm_dtype, "f32") != 0 && strcmp(in.stm_dtype, "bf16") != 0)
        return wrong("configuration", "stm-dtype", in.stm_dtype, "f32 or bf16");
    c->bridge.stm_dtype =
        in.stm_dtype && strcmp(in.stm_dtype, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
    return in.secret_key_file ? read_secret(&c->server.secret_key, in.secret_key_file) : -1;
}

static int take_numbers(struct rxtd_config *c)
{
    struct server_config *s = &c->server;
    uint32_t tenant_queue = 0;
    const struct {
        uint32_t *out;
        uint64_t value;
        const char *name;
        uint32_t max;
    } rows[] = {
        {&s->max_inflight, in.max_inflight, "max-inflight", 1u << 20},
        {&s->max_connections, in.max_connections, "max-connections", 1u << 20},
        {&s->max_tenant_connections, in.max_tenant_connections, "max-tenant-connections", 1u << 20},
        {&tenant_queue, in.max_tenant_queue, "max-tenant-queue", 1u << 20},
        {&s->max_requests, in.max_requests, "max-requests", 1u << 20},
        {&s->max_bulk, in.max_bulk, "max-bulk", 1024},
        {&s->max_tenant_bulk, in.max_tenant_bulk, "max-tenant-bulk", 1024},
        {&s->heartbeat_ms, in.heartbeat_ms, "heartbeat-ms", 3600000},
        {&s->grace_ms, in.grace_ms, "grace-ms", 86400000},
        {&s->stall_ms, in.stall_ms, "stall-ms", 86400000},
        {&s->handshake_ms, in.handshake_ms, "handshake-ms", 3600000},
        {&s->high_water, in.high_water, "high-water", 1u << 20},
        {&s->drain_ms, in.drain_ms, "drain-ms", 86400000},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int code = narrow(rows[i].out, rows[i].value, rows[i].name, rows[i].max);
        if (code >= 0)
            return code;
    }
    if (in.threads < 0 || in.max_seq_len < 0 || in.max_live < 0 || in.max_queue < 0)
        return wrong("configuration", "threads, max-seq-len, max-live, max-queue", "below 0",
                     "use 1 or more, 0 = default");
    c->bridge.tenant = (struct bridge_limits){
        .max_queue = (int32_t)tenant_queue,
        .max_sessions = in.max_tenant_sessions,
        .max_bytes = in.max_tenant_bytes,
    };
    s->credit_max = in.credit_max;
    s->max_kept_bytes = in.max_kept_bytes;
    s->max_import_bytes = in.max_import_bytes;
    return -1;
}

static int take(struct rxtd_config *c)
{
    *c = (struct rxtd_config){
        .check_only = in.check_config,
        .null_model = in.null_model,
        .null_step_us = in.null_step_us,
        .model = in.model,
        .model_options = {.backend = in.backend,
                          .n_thread = in.threads,
                          .dtype = in.dtype,
                          .max_seq_len = in.max_seq_len},
        .bridge = {.store_path = in.store,
                   .keep_text = in.keep_text,
                   .max_bytes = in.max_bytes,
                   .max_live = in.max_live,
                   .max_queue = in.max_queue},
        .server = {.turn = in.turn,
                   .state = in.state,
                   .admin = in.admin,
                   .metrics = in.metrics,
                   .clients = in.clients},
    };
    int code = take_words(c);
    return code >= 0 ? code : take_numbers(c);
}

int rxtd_config_read(struct rxtd_config *c, int argc, char **argv)
{
    struct command_line line = {
        .usage = "rxtd [--config FILE] [--name value] ...",
        .about =
            "Serves sessions over ZeroMQ. Every option may stand in the file as `name = value` "
            "and in the environment as RXTD_NAME; the command line wins.",
        .options = options,
    };
    memset(&in, 0, sizeof in);                        /* it may be read again */
    int code = command_line_parse(&line, argc, argv); /* for --config and --help */
    if (code >= 0)
        return code;
    if (!in.config)
        in.config = getenv("RXTD_CONFIG");
    const char *path = in.config;
    code = read_file(path ? path : "/etc/rxt/rxtd.ini", path != NULL);
    if (code < 0)
        code = read_environment();
    if (code < 0)
        code = command_line_parse(&line, argc, argv); /* which wins */
    return code >= 0 ? code : take(c);
}
