/* store_import reads what store_export wrote, or what somebody else made of it, and
 * store_export_look tells what is wrong with it. The input is tried as it is and mended: header,
 * lengths of records, their sums, their number and the seal made right, so that what is inside of
 * them is reached. What is taken must be whole: it is read and exported again.
 * covers: store/import.c store/export_look.c */
#include "store/export_impl.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sodium.h>
#include <xxhash.h>

#define INPUT_MAX 65536
#define NAMES 200 /* sessions until a fresh file is begun */

static char path[64];
static struct store *s;
static unsigned n_session;

static void close_store(void)
{
    static const char *const end[] = {"", "-wal", "-shm", "-lease"};
    store_close(&s);
    for (size_t i = 0; i < sizeof end / sizeof *end; i++) {
        char name[80];
        (void)snprintf(name, sizeof name, "%s%s", path, end[i]);
        (void)unlink(name);
    }
}

static void open_store(void)
{
    const struct store_options fast = {.sync = STORE_SYNC_NORMAL};
    if (path[0] == '\0') {
        (void)snprintf(path, sizeof path, "/tmp/rxt-fuzz-export-%ld", (long)getpid());
        (void)atexit(close_store);
    }
    close_store();
    enum rxt_status st = store_open(&s, path, &fast, NULL);
    assert(st == RXT_OK);
    st = store_lease_take(s, NULL);
    assert(st == RXT_OK);
    n_session = 0;
}

struct input {
    const uint8_t *p;
    size_t left;
};

static enum rxt_status supply(void *arg, void *out, size_t n)
{
    struct input *in = arg;
    if (n > in->left)
        return RXT_EFORMAT;
    memcpy(out, in->p, n);
    in->p += n;
    in->left -= n;
    return RXT_OK;
}

static enum rxt_status count(void *arg, const void *bytes, size_t n)
{
    (void)bytes;
    *(size_t *)arg += n;
    return RXT_OK;
}

static enum rxt_status note_part(void *arg, const struct store_part *part)
{
    assert(part->good == (part->detail[0] == '\0'));
    *(bool *)arg &= part->good;
    return RXT_OK;
}

/* Whether no part of it is called damaged. */
static bool looks_good(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    bool good = true;
    enum rxt_status st = store_export_look(supply, &in, note_part, &good, NULL);
    assert(st == RXT_OK);
    return good;
}

static void try_import(const uint8_t *data, size_t size)
{
    char name[32];
    struct rxt_error err = {""};
    struct input in = {data, size};
    const struct store_source from = {.read = supply, .arg = &in};
    struct store_session x;
    (void)snprintf(name, sizeof name, "s%u", n_session);
    enum rxt_status st = store_import(s, "t", name, &from, &x, &err);
    if (st != RXT_OK) {
        (void)looks_good(data, size);
        assert(st == RXT_EFORMAT || st == RXT_ECORRUPT || st == RXT_ENEWER);
        assert(err.text[0]);
        assert(store_session_get(s, "t", name, &x, NULL) == RXT_ENOTFOUND);
        return;
    }
    size_t bytes = 0;
    st = store_export(s, "t", name, true, count, &bytes, &err);
    /* fewer if it had an image too many; more by the sums of records if it had none */
    assert(st == RXT_OK && bytes <= (size - in.left) * 2);
    assert(looks_good(data, size));
    if (++n_session == NAMES)
        open_store();
}

static uint8_t *add(uint8_t *at, const void *p, size_t n)
{
    memcpy(at, p, n);
    return at + n;
}

static uint8_t *add_sum(const uint8_t *record, uint8_t *at)
{
    uint64_t sum = XXH3_64bits(record, (size_t)(at - record));
    return add(at, &sum, sizeof sum);
}

static uint8_t *add_record(uint8_t *at, uint32_t type, uint64_t bytes)
{
    static const uint32_t zero;
    at = add(at, &type, sizeof type);
    at = add(at, &zero, sizeof zero);
    return add(at, &bytes, sizeof bytes);
}

/* Lays the input out again as records that hang together; gives the size. */
static size_t mend(const uint8_t *data, size_t size, uint8_t *out)
{
    static const uint32_t format[2] = {EXPORT_FORMAT, 0};
    static const char magic[] = EXPORT_MAGIC;
    uint64_t n_record = 0;
    uint8_t *at = add(add(out, magic, 8), format, sizeof format);
    for (size_t from = EXPORT_HEADER_BYTES; from + EXPORT_RECORD_BYTES <= size; n_record++) {
        uint32_t type;
        uint64_t n;
        memcpy(&type, data + from, sizeof type);
        memcpy(&n, data + from + 8, sizeof n);
        from += EXPORT_RECORD_BYTES;
        if (type == EXPORT_END)
            break;
        if (n > size - from)
            n = size - from;
        uint64_t rest = n - EXPORT_IMAGE_BYTES;
        uint8_t *body = add_record(at, type, n);
        at = add(body, data + from, (size_t)n);
        if (type == EXPORT_IMAGE && n > EXPORT_IMAGE_BYTES)
            (void)add(body + 24, &rest, sizeof rest);
        at = add_sum(body - EXPORT_RECORD_BYTES, at);
        from += (size_t)n;
    }
    uint8_t *end = at;
    at = add(add_record(at, EXPORT_END, sizeof n_record), &n_record, sizeof n_record);
    at = add_sum(end, at);
    (void)crypto_generichash(at, EXPORT_SEAL_BYTES, out, (size_t)(at - out), NULL, 0);
    return (size_t)(at - out) + EXPORT_SEAL_BYTES;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t mended[2 * INPUT_MAX + 1024];
    if (!s) {
        if (sodium_init() < 0)
            abort();
        open_store();
    }
    if (size > INPUT_MAX)
        return 0;
    try_import(data, size);
    if (size >= EXPORT_HEADER_BYTES)
        try_import(mended, mend(data, size, mended));
    return 0;
}
