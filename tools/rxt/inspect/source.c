#include "tools/rxt/inspect/source.h"

#include "tools/rxt/inspect/history.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum rxt_status source_read(void *arg, void *bytes, size_t n)
{
    FILE *f = arg;
    if (fread(bytes, 1, n, f) == n)
        return RXT_OK;
    return ferror(f) ? RXT_EIO : RXT_EFORMAT;
}

/* "folder/anna.rxt" -> "anna" */
static void name_of(char out[STORE_NAME_MAX], const char *path)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    size_t n = strcspn(base, ".");
    if (n == 0)
        base = "export", n = strlen(base);
    n = n < STORE_NAME_MAX ? n : STORE_NAME_MAX - 1;
    memcpy(out, base, n);
    out[n] = '\0';
}

/* The store that exports are imported into. */
static enum rxt_status open_folder(struct source *s, struct rxt_error *err)
{
    char file[96];
    const char *tmp = getenv("TMPDIR");
    if (!tmp || strlen(tmp) > sizeof s->folder - 24)
        tmp = "/tmp";
    (void)snprintf(s->folder, sizeof s->folder, "%s/rxt-inspect-XXXXXX", tmp);
    if (!mkdtemp(s->folder)) {
        s->folder[0] = '\0';
        return rxt_fail(err, RXT_EIO, "cannot make a folder in %s: %s", tmp, strerror(errno));
    }
    (void)snprintf(file, sizeof file, "%s/store", s->folder);
    /* It is thrown away: nothing of it must survive anything. */
    TRY(store_open(&s->store, file, &(struct store_options){.sync = STORE_SYNC_NORMAL}, err));
    return store_lease_take(s->store, err);
}

/* A seal says that nothing was changed since somebody made it, not that he made sense. */
static enum rxt_status accept_shaped(void *arg, const struct store_session *x,
                                     struct rxt_error *err)
{
    struct stm_config cfg;
    (void)arg;
    return history_shape(&cfg, x, err);
}

/* Takes f. `from`: the file or server, for the message. */
static enum rxt_status import_file(struct source *s, FILE *f, const char *from, const char *tenant,
                                   const char *session, struct rxt_error *err)
{
    struct rxt_error why = {0};
    rewind(f);
    const struct store_source bytes = {.read = source_read, .accept = accept_shaped, .arg = f};
    enum rxt_status st = store_import(s->store, tenant, session, &bytes, NULL, &why);
    if (st == RXT_OK) {
        (void)fclose(f);
        return RXT_OK;
    }
    if (st == RXT_ECORRUPT || st == RXT_EFORMAT || st == RXT_ENEWER)
        s->damaged = f;
    else
        (void)fclose(f);
    return rxt_fail(err, st, "%.100s: %s%s", from, why.text,
                    s->damaged ? "; --verify names the parts" : "");
}

static enum rxt_status fetch(struct source *s, const struct live_options *o, const char *tenant,
                             const char *session, struct rxt_error *err)
{
    char path[96];
    (void)snprintf(path, sizeof path, "%s/export", s->folder);
    FILE *f = fopen(path, "w+xe");
    if (!f)
        return rxt_fail(err, RXT_EIO, "cannot write %s: %s", path, strerror(errno));
    (void)unlink(path); /* it is ours alone, and gone when this program ends in whatever way */
    enum rxt_status st = live_export(f, o, session, err);
    if (st == RXT_OK)
        return import_file(s, f, o->state, tenant, session, err);
    (void)fclose(f);
    return st;
}

enum rxt_status source_connect(struct source *s, const struct live_options *o, const char *tenant,
                               const char *session, struct rxt_error *err)
{
    *s = (struct source){.is_export = true};
    (void)snprintf(s->session, sizeof s->session, "%s", session);
    TRY(open_folder(s, err));
    return fetch(s, o, tenant, session, err);
}

enum rxt_status source_open(struct source *s, const char *path, const char *tenant,
                            struct rxt_error *err)
{
    static const char export_magic[] = "RXTSESSN";
    char magic[sizeof export_magic] = "";
    int alike = 0;
    *s = (struct source){0};
    FILE *f = fopen(path, "rb");
    if (!f && errno == ENOENT)
        return rxt_fail(err, RXT_ENOTFOUND, "there is no %.180s: rxt chat makes a store", path);
    if (!f)
        return rxt_fail(err, RXT_EIO, "cannot open %.180s: %s", path, strerror(errno));
    size_t n = fread(magic, 1, sizeof magic - 1, f);
    enum rxt_status st = RXT_OK;
    for (size_t i = 0; i < n; i++)
        alike += magic[i] == export_magic[i];
    s->is_export = alike >= 7; /* one byte may be damaged: it is still no store */
    if (s->is_export) {
        name_of(s->session, path);
        st = open_folder(s, err);
        if (st == RXT_OK)
            return import_file(s, f, path, tenant, s->session, err);
    }
    (void)fclose(f);
    if (st != RXT_OK)
        return st;
    return store_open(&s->store, path, &(struct store_options){.read_only = true}, err);
}

void source_close(struct source *s)
{
    static const char *const file[] = {"store", "store-wal", "store-shm", "store-lease"};
    store_close(&s->store);
    if (s->damaged)
        (void)fclose(s->damaged);
    s->damaged = NULL;
    if (!s->folder[0])
        return;
    for (size_t i = 0; i < sizeof file / sizeof *file; i++) {
        char path[96];
        (void)snprintf(path, sizeof path, "%s/%s", s->folder, file[i]);
        (void)unlink(path);
    }
    (void)rmdir(s->folder);
    s->folder[0] = '\0';
}
