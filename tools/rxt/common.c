#include "tools/rxt/cli.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct common_options common = {.session = "default"};

const struct option model_options[] = {
    {"model", OPTION_TEXT, &common.model, "DIR",
     "checkpoint folder (default: $RXT_MODEL, else the one in models/)"},
    {"dtype", OPTION_TEXT, &common.dtype, "TYPE",
     "weights in memory: f32 or bf16 (default: as the file)"},
    {"threads", OPTION_INT, &common.threads, "N", "compute threads (default: all processors)"},
    {"backend", OPTION_TEXT, &common.backend, "NAME",
     "cpu, cuda, or auto (default): cuda if a device is there, else cpu"},
    {"max-seq-len", OPTION_INT, &common.max_seq_len, "N",
     "tokens of one turn, question and answer (default: of the model)"},
    {0},
};

const struct option session_options[] = {
    {"store", OPTION_TEXT, &common.store, "FILE",
     "where sessions are kept (default: $XDG_DATA_HOME/rxt/rxt.db)"},
    {"session", OPTION_TEXT, &common.session, "NAME", "name of the session (default: default)"},
    OPTION_MORE(model_options),
    {0},
};

int complain(enum rxt_status st, const struct rxt_error *err)
{
    const char *text = err && err->text[0] ? err->text : rxt_status_text(st);
    (void)fprintf(stderr, "rxt: %s\n", text);
    return 1;
}

/* ---- the model -------------------------------------------------------------------------- */

/* The one folder inside `models`; false if there is none, or more than one. */
static bool only_folder(const char *models, char *out, size_t size)
{
    DIR *d = opendir(models);
    int n = 0;
    if (!d)
        return false;
    for (struct dirent *e; (e = readdir(d));) {
        struct stat s;
        char path[4096];
        if (e->d_name[0] == '.')
            continue;
        int len = snprintf(path, sizeof path, "%s/%s", models, e->d_name);
        if (len < 0 || (size_t)len >= sizeof path || stat(path, &s) != 0 || !S_ISDIR(s.st_mode))
            continue;
        n++;
        (void)snprintf(out, size, "%s", path);
    }
    (void)closedir(d);
    return n == 1;
}

/* models/ of the working directory, or of the source tree this program was built in: its folder is
 * build/PRESET/tools. */
static bool bundled_model(char *out, size_t size)
{
    char exe[4096], models[4200];
    if (only_folder("models", out, size))
        return true;
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n <= 0)
        return false;
    exe[n] = '\0';
    for (int up = 0; up < 4; up++) {
        char *slash = strrchr(exe, '/');
        if (!slash)
            return false;
        *slash = '\0';
    }
    (void)snprintf(models, sizeof models, "%s/models", exe);
    return only_folder(models, out, size);
}

enum rxt_status open_model(struct rxt_model **out, struct rxt_error *err)
{
    char bundled[4200];
    const char *dir = common.model ? common.model : getenv("RXT_MODEL");
    if (!dir || !*dir) {
        if (!bundled_model(bundled, sizeof bundled))
            return rxt_fail(err, RXT_ENOTFOUND,
                            "which model? Use --model DIR or set RXT_MODEL: there is no models/ "
                            "with exactly one folder here");
        dir = bundled;
    }
    if (common.threads < 0)
        return rxt_fail(err, RXT_EINVAL, "--threads %d: use 1 or more, 0 = all", common.threads);
    const bool automatic = !common.backend || strcmp(common.backend, "auto") == 0;
    const struct rxt_model_options opt = {
        .backend = automatic && common.computes_nothing ? "cpu" : common.backend,
        .n_thread = common.threads,
        .dtype = common.dtype,
        .max_seq_len = common.max_seq_len,
    };
    TRY(rxt_model_open(out, dir, &opt, err));
    const struct backend *be = rxt_model_backend(*out);
    if (automatic && strcmp(backend_name(be), "cpu") != 0)
        (void)fprintf(stderr, "rxt: computes on %s\n", backend_describe(be));
    return RXT_OK;
}

/* ---- the store -------------------------------------------------------------------------- */

static enum rxt_status make_folder(const char *path, struct rxt_error *err)
{
    if (mkdir(path, 0700) == 0 || errno == EEXIST)
        return RXT_OK;
    return rxt_fail(err, RXT_EIO, "cannot make the folder %.180s: %s", path, strerror(errno));
}

static enum rxt_status put_path(char *out, size_t size, const char *folder, const char *name,
                                struct rxt_error *err)
{
    int n = snprintf(out, size, "%s%s", folder, name);
    if (n < 0 || (size_t)n >= size)
        return rxt_fail(err, RXT_ELIMIT,
                        "the path of the store under XDG_DATA_HOME or HOME is too long: use "
                        "--store FILE");
    return RXT_OK;
}

enum rxt_status default_store(char *out, size_t size, struct rxt_error *err)
{
    const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    if (data && *data) {
        TRY(put_path(out, size, data, "", err));
    } else {
        if (!home || !*home)
            return rxt_fail(err, RXT_ENOTFOUND,
                            "where to keep sessions? Use --store FILE: neither "
                            "HOME nor XDG_DATA_HOME is set");
        TRY(put_path(out, size, home, "/.local", err));
        TRY(make_folder(out, err));
        TRY(put_path(out, size, home, "/.local/share", err));
    }
    TRY(make_folder(out, err));
    size_t n = strlen(out);
    TRY(put_path(out + n, size - n, "/rxt", "", err));
    TRY(make_folder(out, err));
    return put_path(out + n, size - n, "/rxt", "/rxt.db", err);
}

static enum rxt_status open_bridge(struct bridge **out, const struct rxt_model *m,
                                   struct bridge_config cfg, struct rxt_error *err)
{
    char path[4096];
    cfg.store_path = common.store;
    if (!cfg.store_path) {
        TRY(default_store(path, sizeof path, err));
        cfg.store_path = path;
    }
    /* One person, one turn at a time. */
    cfg.max_live = 1;
    cfg.n_spare = 1;
    return bridge_open(out, m, &cfg, err);
}

/* ---- commands --------------------------------------------------------------------------- */

#define CLOSE_DEADLINE_US 60000000u /* for writes and memory updates when a command ends */

int run_command(const struct bridge_config *cfg, command_body body, void *arg)
{
    struct app a = {0};
    struct rxt_error err = {0};
    int code = 0;
    enum rxt_status st = open_model(&a.model, &err);
    if (st == RXT_OK && cfg)
        st = open_bridge(&a.bridge, a.model, *cfg, &err);
    if (st == RXT_OK)
        st = body(&a, arg, &code, &err);
    if (st != RXT_OK)
        code = complain(st, &err);
    bridge_close(&a.bridge, CLOSE_DEADLINE_US);
    rxt_model_close(&a.model);
    return code;
}

/* ---- requests --------------------------------------------------------------------------- */

enum rxt_status session_name(char out[BRIDGE_NAME_MAX], const char *name, struct rxt_error *err)
{
    if (strlen(name) >= BRIDGE_NAME_MAX)
        return rxt_fail(err, RXT_ELIMIT, "a session name has at most %d bytes",
                        BRIDGE_NAME_MAX - 1);
    memcpy(out, name, strlen(name) + 1);
    return RXT_OK;
}

enum rxt_status session_request(struct bridge_request *r, enum bridge_verb verb,
                                const char *session, struct rxt_error *err)
{
    *r = (struct bridge_request){
        .verb = verb, .tenant = "default", .sampling = RXT_GREEDY, .if_version = BRIDGE_HEAD};
    return session_name(r->session, session, err);
}

void keep_info(void *user, const struct bridge_event *e)
{
    if (e->info)
        *(struct bridge_session_info *)user = *e->info;
}
