#include "rxt/token_impl.h"

#include "kernels/base/mem.h"
#include "kernels/base/utf8.h"

#include <assert.h>
#include <string.h>

/* Words repeat: pieces of up to KEY_MAX bytes keep their ids in a table with one place for each
 * hash. An entry is one cache line. */
#define KEY_MAX 16
#define CACHE_BITS 14
struct cached {
    uint64_t key[2]; /* the piece, padded with zeros */
    uint8_t len, n_id;
    int32_t id[11];
};
static_assert(sizeof(struct cached) == 64, "an entry is one cache line");

/* Longer pieces than SHORT_MAX are merged with a heap: n log n whatever the text. */
#define SHORT_MAX 48

/* A symbol of a long piece. rank is that of the pair it begins, TOKEN_NONE if that does not merge
 * or the symbol is gone. */
struct symbol {
    uint32_t rank, made;
    uint32_t prev, next; /* TOKEN_NONE at the ends */
};

struct token_bpe {
    struct cached cache[1 << CACHE_BITS];
    uint32_t *id;          /* of a long piece, cap of them */
    struct symbol *symbol; /* cap */
    uint64_t *heap;        /* 2 * cap: rank << 32 | place of the left symbol */
    size_t cap;
    struct token_buffer name; /* a piece in the byte alphabet */
};

enum rxt_status token_bpe_create(struct token_bpe **out)
{
    *out = mem_alloc(sizeof **out);
    return *out ? RXT_OK : RXT_ENOMEM;
}

void token_bpe_destroy(struct token_bpe **b)
{
    if (*b) {
        mem_free((*b)->id);
        mem_free((*b)->symbol);
        mem_free((*b)->heap);
        mem_free((*b)->name.data);
    }
    mem_free(*b);
    *b = NULL;
}

size_t token_bpe_bytes(const struct token_bpe *b)
{
    return sizeof *b + b->cap * (sizeof *b->id + sizeof *b->symbol + 2 * sizeof *b->heap) +
           b->name.cap;
}

static enum rxt_status make_room(struct token_bpe *b, size_t n)
{
    if (n <= b->cap)
        return RXT_OK;
    size_t cap = b->cap ? b->cap : 1024;
    while (cap < n)
        cap *= 2;
    mem_free(b->id);
    mem_free(b->symbol);
    mem_free(b->heap);
    b->id = mem_alloc_n(cap, sizeof *b->id);
    b->symbol = mem_alloc_n(cap, sizeof *b->symbol);
    b->heap = mem_alloc_n(cap, 2 * sizeof *b->heap);
    b->cap = b->id && b->symbol && b->heap ? cap : 0;
    return b->cap ? RXT_OK : RXT_ENOMEM;
}

/* Symbols of a piece before merging: its letters. Bytes without one become the unknown token, a
 * run of them one if fused, or nothing. id holds n. */
static size_t letters(const struct tokenizer *t, const char *piece, size_t n, uint32_t *id)
{
    size_t k = 0;
    bool after_unknown = false;
    for (size_t i = 0; i < n; i++) {
        uint32_t letter = t->byte_id[(unsigned char)piece[i]];
        bool unknown = letter == TOKEN_NONE;
        if (unknown)
            letter = after_unknown && t->fuse_unk ? TOKEN_NONE : t->unk;
        if (letter != TOKEN_NONE)
            id[k++] = letter;
        after_unknown = unknown;
    }
    return k;
}

static void find_rank(const struct tokenizer *t, uint32_t left, uint32_t right, uint32_t *rank,
                      uint32_t *made)
{
    const struct token_merge *m = token_merges_find(&t->merges, left, right);
    *rank = m ? m->rank : TOKEN_NONE;
    *made = m ? m->made : TOKEN_NONE;
}

/* Merges id[0..n) in place, n > 0: the lowest rank first, of equal ones the leftmost. */
static size_t merge_short(const struct tokenizer *t, uint32_t *id, size_t n)
{
    uint32_t rank[SHORT_MAX], made[SHORT_MAX]; /* of the pair that i begins */
    for (size_t i = 0; i + 1 < n; i++)
        find_rank(t, id[i], id[i + 1], &rank[i], &made[i]);
    rank[n - 1] = made[n - 1] = TOKEN_NONE;
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best])
                best = i;
        if (rank[best] == TOKEN_NONE)
            break;
        id[best] = made[best];
        n--;
        for (size_t i = best + 1; i < n; i++) {
            id[i] = id[i + 1];
            rank[i] = rank[i + 1];
            made[i] = made[i + 1];
        }
        if (best > 0)
            find_rank(t, id[best - 1], id[best], &rank[best - 1], &made[best - 1]);
        if (best + 1 < n)
            find_rank(t, id[best], id[best + 1], &rank[best], &made[best]);
    }
    return n;
}

static void sift_down(uint64_t *heap, size_t n, size_t i)
{
    uint64_t v = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && heap[child + 1] < heap[child])
            child++;
        if (v <= heap[child])
            break;
        heap[i] = heap[child];
    }
    heap[i] = v;
}

static void heap_push(uint64_t *heap, size_t *n, uint64_t v)
{
    size_t i = (*n)++;
    for (; i > 0 && v < heap[(i - 1) / 2]; i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = v;
}

static uint64_t heap_pop(uint64_t *heap, size_t *n)
{
    uint64_t top = heap[0];
    heap[0] = heap[--*n];
    sift_down(heap, *n, 0);
    return top;
}

/* Ranks the pair that symbol i begins and queues it. */
static void queue_pair(const struct tokenizer *t, struct token_bpe *b, size_t *n_heap, uint32_t i)
{
    struct symbol *s = &b->symbol[i];
    find_rank(t, b->id[i], b->id[s->next], &s->rank, &s->made);
    if (s->rank != TOKEN_NONE)
        heap_push(b->heap, n_heap, (uint64_t)s->rank << 32 | i);
}

/* As merge_short over b->id[0..n), then emits what is left. An entry of the heap counts while
 * its pair still has that rank; each merge takes one and makes at most two, so 2 n are enough. */
static void merge_long(struct token_scratch *s, struct token_bpe *b, size_t n)
{
    size_t n_heap = 0;
    for (size_t i = 0; i < n; i++) {
        b->symbol[i].prev = i ? (uint32_t)i - 1 : TOKEN_NONE;
        b->symbol[i].next = i + 1 < n ? (uint32_t)i + 1 : TOKEN_NONE;
        b->symbol[i].rank = TOKEN_NONE;
    }
    for (size_t i = 0; i + 1 < n; i++)
        queue_pair(s->t, b, &n_heap, (uint32_t)i);
    while (n_heap > 0) {
        uint64_t top = heap_pop(b->heap, &n_heap);
        uint32_t i = (uint32_t)top;
        struct symbol *left = &b->symbol[i];
        if (left->rank != top >> 32)
            continue;
        struct symbol *right = &b->symbol[left->next];
        b->id[i] = left->made;
        left->rank = right->rank = TOKEN_NONE;
        left->next = right->next;
        if (left->next != TOKEN_NONE) {
            b->symbol[left->next].prev = i;
            queue_pair(s->t, b, &n_heap, i);
        }
        if (left->prev != TOKEN_NONE)
            queue_pair(s->t, b, &n_heap, left->prev);
    }
    for (uint32_t i = n ? 0 : TOKEN_NONE; i != TOKEN_NONE; i = b->symbol[i].next)
        token_emit(s, b->id[i]);
}

/* The token of the model whose string is the whole piece, which ignore_merges asks for first. A
 * special one is none: plain text must not yield it. */
static enum rxt_status whole_piece(struct token_scratch *s, const char *piece, size_t n,
                                   uint32_t *id)
{
    struct token_buffer *name = &s->bpe->name;
    *id = TOKEN_NONE;
    if (n > RXT_PIECE_MAX) /* no string is so long */
        return RXT_OK;
    name->n = 0;
    TRY(token_buffer_room(name, 2 * n));
    for (size_t i = 0; i < n; i++)
        name->n += utf8_put(token_letter((unsigned char)piece[i]), name->data + name->n);
    *id = token_vocab_find(&s->t->vocab, name->data, name->n);
    if (*id == TOKEN_NONE)
        return RXT_OK;
    unsigned flags = s->t->vocab.entry[*id].flags;
    if (!(flags & TOKEN_MODEL) || flags & TOKEN_SPECIAL)
        *id = TOKEN_NONE;
    return RXT_OK;
}

/* Ids of a piece of at most SHORT_MAX bytes. */
static enum rxt_status encode_short(struct token_scratch *s, const char *piece, size_t n,
                                    uint32_t id[SHORT_MAX], size_t *n_id)
{
    if (s->t->ignore_merges) {
        TRY(whole_piece(s, piece, n, id));
        if (*id != TOKEN_NONE) {
            *n_id = 1;
            return RXT_OK;
        }
    }
    size_t k = letters(s->t, piece, n, id);
    *n_id = k ? merge_short(s->t, id, k) : 0;
    return RXT_OK;
}

static enum rxt_status encode_long(struct token_scratch *s, const char *piece, size_t n)
{
    if (s->t->ignore_merges) {
        uint32_t id;
        TRY(whole_piece(s, piece, n, &id));
        if (id != TOKEN_NONE) {
            token_emit(s, id);
            return RXT_OK;
        }
    }
    TRY(make_room(s->bpe, n));
    merge_long(s, s->bpe, letters(s->t, piece, n, s->bpe->id));
    return RXT_OK;
}

static void load_key(uint64_t key[2], const char *piece, size_t n)
{
    key[0] = key[1] = 0;
    memcpy(key, piece, n);
}

static struct cached *place_of(struct token_bpe *b, const uint64_t key[2], size_t n)
{
    uint64_t h =
        (key[0] ^ (key[1] + n) * UINT64_C(0xC2B2AE3D27D4EB4F)) * UINT64_C(0x9E3779B97F4A7C15);
    return &b->cache[h >> (64 - CACHE_BITS)];
}

static enum rxt_status encode_cached(struct token_scratch *s, const char *piece, size_t n)
{
    uint64_t key[2];
    load_key(key, piece, n);
    struct cached *c = place_of(s->bpe, key, n);
    if (c->len == n && c->key[0] == key[0] && c->key[1] == key[1]) {
        for (size_t i = 0; i < c->n_id; i++)
            token_emit(s, (uint32_t)c->id[i]);
        return RXT_OK;
    }
    uint32_t id[SHORT_MAX];
    size_t n_id;
    TRY(encode_short(s, piece, n, id, &n_id));
    for (size_t i = 0; i < n_id; i++)
        token_emit(s, id[i]);
    if (n_id <= sizeof c->id / sizeof *c->id) {
        *c = (struct cached){.key = {key[0], key[1]}, .len = (uint8_t)n, .n_id = (uint8_t)n_id};
        memcpy(c->id, id, n_id * sizeof *id);
    }
    return RXT_OK;
}

enum rxt_status token_bpe_piece(struct token_scratch *s, const char *piece, size_t n)
{
    if (n <= KEY_MAX)
        return encode_cached(s, piece, n);
    if (n > SHORT_MAX)
        return encode_long(s, piece, n);
    uint32_t id[SHORT_MAX];
    size_t n_id;
    TRY(encode_short(s, piece, n, id, &n_id));
    for (size_t i = 0; i < n_id; i++)
        token_emit(s, id[i]);
    return RXT_OK;
}
