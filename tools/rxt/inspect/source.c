#include "tools/rxt/inspect/source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static enum rxt_status read_file(void *arg, void *bytes, size_t n)
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

static enum rxt_status open_export(struct source *s, FILE *f, const char *path, const char *tenant,
                                   struct rxt_error *err)
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
    TRY(store_lease_take(s->store, err));
    name_of(s->session, path);
    rewind(f);
    struct rxt_error why = {0};
    const struct store_source from = {.read = read_file, .arg = f};
    enum rxt_status st = store_import(s->store, tenant, s->session, &from, NULL, &why);
    return st == RXT_OK ? st : rxt_fail(err, st, "%.100s: %s", path, why.text);
}

enum rxt_status source_open(struct source *s, const char *path, const char *tenant,
                            struct rxt_error *err)
{
    static const char export_magic[] = "RXTSESSN";
    char magic[sizeof export_magic] = "";
    *s = (struct source){0};
    FILE *f = fopen(path, "rb");
    if (!f && errno == ENOENT)
        return rxt_fail(err, RXT_ENOTFOUND, "there is no %.180s: rxt chat makes a store", path);
    if (!f)
        return rxt_fail(err, RXT_EIO, "cannot open %.180s: %s", path, strerror(errno));
    size_t n = fread(magic, 1, sizeof magic - 1, f);
    enum rxt_status st = RXT_OK;
    s->is_export = n == sizeof magic - 1 && strcmp(magic, export_magic) == 0;
    if (s->is_export)
        st = open_export(s, f, path, tenant, err);
    (void)fclose(f);
    if (s->is_export)
        return st;
    return store_open(&s->store, path, &(struct store_options){.read_only = true}, err);
}

void source_close(struct source *s)
{
    static const char *const file[] = {"store", "store-wal", "store-shm", "store-lease"};
    store_close(&s->store);
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
