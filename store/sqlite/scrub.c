/* Erased bytes that SQLite leaves behind. With secure_delete it overwrites rows and pages that it
 * deletes. But when a page of a tree overflows, its rows are dealt out anew over it and its
 * neighbours, and the space that becomes free in the middle of a page keeps a copy of rows that
 * live elsewhere from then on; deleting the row does not reach the copy. So after an erase the
 * trees are walked and that space is overwritten, in place: it is not part of any row, nothing
 * reads it, and a write that is cut short by a power cut leaves the file as good as it was.
 *
 * This needs the newest state of every page to be in the file (an empty log) and nobody to write
 * meanwhile. Layout of pages: https://www.sqlite.org/fileformat2.html, section 1.6. */
#include "store/sqlite/sqlite_impl.h"

#include "kernels/base/mem.h"

#include <inttypes.h>
#include <string.h>

#define DEPTH_MAX \
    12 /* levels of a tree: with the four cells that a page holds at least, 4^11 leaves */
#define FILE_HEADER_BYTES 100

enum page_type { INDEX_INNER = 2, TABLE_INNER = 5, INDEX_LEAF = 10, TABLE_LEAF = 13 };

struct scrub {
    struct store *s;
    sqlite3_file *file;
    uint32_t page_bytes;
    uint32_t n_page, n_seen;
    uint8_t *page[DEPTH_MAX]; /* one a level, cut from one block */
    uint8_t *zeros;
    bool wrote;
    struct rxt_error *err;
};

static uint32_t get2(const uint8_t *p)
{
    return (uint32_t)p[0] << 8 | p[1];
}

static uint32_t get4(const uint8_t *p)
{
    return get2(p) << 16 | get2(p + 2);
}

static enum rxt_status io(struct scrub *c, int rc)
{
    if (rc == SQLITE_OK)
        return RXT_OK;
    return rxt_fail(c->err, sql_status(rc),
                    "cannot overwrite erased bytes: %s (SQLite %d, store %s)", sqlite3_errstr(rc),
                    rc, c->s->path);
}

static enum rxt_status damaged(struct scrub *c, uint32_t number)
{
    return rxt_fail(c->err, RXT_ECORRUPT,
                    "cannot overwrite erased bytes: page %" PRIu32 " is damaged (store %s)", number,
                    c->s->path);
}

/* Free space in the middle: from the end of the cell pointers to the first cell. */
static enum rxt_status scrub_gap(struct scrub *c, uint32_t number, const uint8_t *page, size_t from,
                                 size_t to)
{
    size_t n = to - from;
    if (memcmp(page + from, c->zeros, n) == 0)
        return RXT_OK;
    c->wrote = true;
    sqlite3_int64 at = (sqlite3_int64)(number - 1) * c->page_bytes + (sqlite3_int64)from;
    return io(c, c->file->pMethods->xWrite(c->file, c->zeros, (int)n, at));
}

static enum rxt_status scrub_page(struct scrub *c, uint32_t number, int level)
{
    if (number == 0 || number > c->n_page || level == DEPTH_MAX || c->n_seen++ == c->n_page)
        return damaged(c, number);
    uint8_t *page = c->page[level];
    TRY(io(c, c->file->pMethods->xRead(c->file, page, (int)c->page_bytes,
                                       (sqlite3_int64)(number - 1) * c->page_bytes)));
    const uint8_t *head = number == 1 ? page + FILE_HEADER_BYTES : page;
    bool inner = head[0] == INDEX_INNER || head[0] == TABLE_INNER;
    if (!inner && head[0] != INDEX_LEAF && head[0] != TABLE_LEAF)
        return damaged(c, number);
    const uint8_t *cells = head + (inner ? 12 : 8);
    uint32_t n_cell = get2(head + 3), first = get2(head + 5);
    size_t from = (size_t)(cells - page) + 2 * (size_t)n_cell, to = first ? first : 65536;
    if (from > to || to > c->page_bytes)
        return damaged(c, number);
    TRY(scrub_gap(c, number, page, from, to));
    if (!inner)
        return RXT_OK;
    for (uint32_t i = 0; i < n_cell; i++) {
        uint32_t cell = get2(cells + 2 * (size_t)i);
        if (cell < to || cell + 4 > c->page_bytes)
            return damaged(c, number);
        TRY(scrub_page(c, get4(page + cell), level + 1));
    }
    return scrub_page(c, get4(head + 8), level + 1);
}

/* The trees: that of the schema, and those it names. */
static enum rxt_status scrub_trees(struct scrub *c)
{
    TRY(scrub_page(c, 1, 0));
    struct query q = query_open(c->s, SQL_ROOTS);
    enum rxt_status st;
    while ((st = query_row(&q, "overwrite erased bytes", c->err)) == RXT_OK) {
        st = scrub_page(c, (uint32_t)column_count(&q, 0, UINT32_MAX), 0);
        if (st != RXT_OK)
            break;
    }
    query_close(&q);
    return st == RXT_ENOTFOUND ? RXT_OK : st;
}

/* Sizes, and that the log is empty: what is in it would come over what we write. */
static enum rxt_status scrub_open(struct scrub *c)
{
    sqlite3_file *log = NULL;
    sqlite3_int64 size = 0, log_size = 0;
    uint8_t head[FILE_HEADER_BYTES];
    (void)sqlite3_file_control(c->s->db, "main", SQLITE_FCNTL_FILE_POINTER, (void *)&c->file);
    (void)sqlite3_file_control(c->s->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, (void *)&log);
    if (!c->file || !c->file->pMethods || !log || !log->pMethods)
        return io(c, SQLITE_IOERR);
    TRY(io(c, log->pMethods->xFileSize(log, &log_size)));
    if (log_size != 0)
        return rxt_fail(c->err, RXT_EBUSY, "another program has written to store %s", c->s->path);
    TRY(io(c, c->file->pMethods->xFileSize(c->file, &size)));
    TRY(io(c, c->file->pMethods->xRead(c->file, head, sizeof head, 0)));
    c->page_bytes = get2(head + 16) == 1 ? 65536 : get2(head + 16);
    if (c->page_bytes < 512)
        return damaged(c, 1);
    c->n_page = (uint32_t)(size / c->page_bytes);
    uint8_t *block = mem_alloc_n(DEPTH_MAX + 1, c->page_bytes);
    if (!block)
        return rxt_fail(c->err, RXT_ENOMEM, "out of memory for overwriting erased bytes");
    c->zeros = block;
    for (size_t i = 0; i < DEPTH_MAX; i++)
        c->page[i] = block + (i + 1) * c->page_bytes;
    return RXT_OK;
}

static enum rxt_status scrub_all(struct scrub *c)
{
    TRY(scrub_open(c));
    TRY(scrub_trees(c));
    return c->wrote ? io(c, c->file->pMethods->xSync(c->file, SQLITE_SYNC_FULL)) : RXT_OK;
}

enum rxt_status scrub(struct store *s, struct rxt_error *err)
{
    struct scrub c = {.s = s, .err = err};
    TRY(tx_begin(s, err)); /* keeps writers of other programs out */
    enum rxt_status st = tx_end(s, scrub_all(&c), err);
    mem_free(c.zeros);
    /* Pages in the cache have the old bytes, and would be written with them. */
    (void)sqlite3_db_release_memory(s->db);
    return st;
}
