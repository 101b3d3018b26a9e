#include "rxt/token_impl.h"

#include "kernels/base/mem.h"
#include "kernels/base/utf8.h"

#include <string.h>

/* A token of this many letters of the byte alphabet can decode to 3 bytes of U+FFFD for each, after
 * those for up to 3 bytes held back. */
#define LETTERS_MAX ((RXT_PIECE_MAX - 9) / 3)
#define STRING_MAX (RXT_PIECE_MAX - 9)

int32_t token_letter(int byte)
{
    if ((byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174)
        return byte;
    if (byte < 33)
        return 0x100 + byte;
    return byte < 161 ? 0x100 + byte - 94 : 0x143; /* 127..160 follow the 33, 173 comes last */
}

int token_letter_byte(int32_t cp)
{
    if (cp >= 0x100 && cp <= 0x143) {
        int k = cp - 0x100;
        return k < 33 ? k : k < 67 ? k + 94 : 173;
    }
    return cp < 0x100 && token_letter(cp) == cp ? cp : -1;
}

static uint32_t hash_of(const char *s, size_t len)
{
    uint64_t h = len;
    while (len > 0) {
        uint64_t word = 0;
        size_t n = len < sizeof word ? len : sizeof word;
        memcpy(&word, s, n);
        h = (h ^ word) * UINT64_C(0x9E3779B97F4A7C15);
        h ^= h >> 32;
        s += n;
        len -= n;
    }
    return (uint32_t)(h * UINT64_C(0xC2B2AE3D27D4EB4F) >> 32);
}

/* The slot that holds s, or the empty one where it belongs. */
static struct token_slot *slot_of(const struct token_vocab *v, const char *s, size_t len,
                                  uint32_t hash)
{
    for (size_t i = hash;; i++) {
        struct token_slot *slot = &v->slot[i & (v->n_slot - 1)];
        if (slot->id == TOKEN_NONE)
            return slot;
        const struct token_entry *e = &v->entry[slot->id];
        if (slot->hash == hash && e->len == len && memcmp(v->text + e->at, s, len) == 0)
            return slot;
    }
}

uint32_t token_vocab_find(const struct token_vocab *v, const char *s, size_t len)
{
    return v->n_slot ? slot_of(v, s, len, hash_of(s, len))->id : TOKEN_NONE;
}

static enum rxt_status grow_slots(struct token_vocab *v)
{
    size_t n = v->n_slot ? 2 * v->n_slot : 1024;
    struct token_slot *slot = mem_alloc_n(n, sizeof *slot);
    if (!slot)
        return RXT_ENOMEM;
    for (size_t i = 0; i < n; i++)
        slot[i].id = TOKEN_NONE;
    for (size_t i = 0; i < v->n_slot; i++) {
        size_t at = v->slot[i].hash;
        if (v->slot[i].id == TOKEN_NONE)
            continue;
        while (slot[at & (n - 1)].id != TOKEN_NONE)
            at++;
        slot[at & (n - 1)] = v->slot[i];
    }
    mem_free(v->slot);
    v->slot = slot;
    v->n_slot = n;
    return RXT_OK;
}

static enum rxt_status grow_entries(struct token_vocab *v, size_t n)
{
    size_t cap = v->cap_id ? v->cap_id : 1024;
    while (cap < n)
        cap *= 2;
    if (cap > v->cap_id) {
        struct token_entry *entry = mem_realloc(v->entry, cap * sizeof *entry);
        if (!entry)
            return RXT_ENOMEM;
        v->entry = entry;
        v->cap_id = cap;
    }
    return RXT_OK;
}

static enum rxt_status grow_text(struct token_vocab *v, size_t more)
{
    size_t cap = v->cap_text ? v->cap_text : 16384;
    while (cap - v->n_text < more)
        cap *= 2;
    if (cap > v->cap_text) {
        char *text = mem_realloc(v->text, cap);
        if (!text)
            return RXT_ENOMEM;
        v->text = text;
        v->cap_text = cap;
    }
    return RXT_OK;
}

static bool is_too_long(const char *s, size_t len)
{
    size_t points = 0;
    for (size_t i = 0; i < len; i++)
        points += ((unsigned char)s[i] & 0xC0) != 0x80;
    return len > STRING_MAX || points > LETTERS_MAX;
}

enum rxt_status token_vocab_put(struct token_vocab *v, enum token_flag origin, uint32_t id,
                                const char *s, size_t len)
{
    if (id >= TOKEN_ID_MAX || is_too_long(s, len))
        return RXT_ELIMIT;
    if (2 * (v->n_token + 1) > v->n_slot)
        TRY(grow_slots(v));
    TRY(grow_entries(v, (size_t)id + 1));
    TRY(grow_text(v, len + 1));
    uint32_t hash = hash_of(s, len);
    struct token_slot *slot = slot_of(v, s, len, hash);
    if (slot->id != TOKEN_NONE || v->entry[id].flags)
        return RXT_EEXIST;
    *slot = (struct token_slot){.id = id, .hash = hash};
    v->entry[id] = (struct token_entry){
        .at = (uint32_t)v->n_text, .len = (uint16_t)len, .flags = (uint16_t)origin};
    memcpy(v->text + v->n_text, s, len);
    v->n_text += len + 1; /* the NUL is there: fresh memory is zero */
    v->n_token++;
    if (v->n_id <= id)
        v->n_id = (size_t)id + 1;
    return RXT_OK;
}

void token_vocab_free(struct token_vocab *v)
{
    mem_free(v->text);
    mem_free(v->entry);
    mem_free(v->slot);
    *v = (struct token_vocab){0};
}

static struct token_merge *merge_slot(const struct token_merges *m, uint64_t pair)
{
    for (size_t i = token_merge_hash(pair);; i++) {
        struct token_merge *s = &m->slot[i & (m->n_slot - 1)];
        if (s->rank == TOKEN_NONE || s->pair == pair)
            return s;
    }
}

/* Twice the slots, or the first. */
static enum rxt_status grow_merges(struct token_merges *m)
{
    struct token_merges big = {.n_slot = m->n_slot ? 2 * m->n_slot : 1024, .n = m->n};
    big.slot = mem_alloc_n(big.n_slot, sizeof *big.slot);
    if (!big.slot)
        return RXT_ENOMEM;
    for (size_t i = 0; i < big.n_slot; i++)
        big.slot[i].rank = TOKEN_NONE;
    for (size_t i = 0; i < m->n_slot; i++)
        if (m->slot[i].rank != TOKEN_NONE)
            *merge_slot(&big, m->slot[i].pair) = m->slot[i];
    mem_free(m->slot);
    *m = big;
    return RXT_OK;
}

enum rxt_status token_merges_init(struct token_merges *m)
{
    *m = (struct token_merges){0};
    return grow_merges(m);
}

enum rxt_status token_merges_put(struct token_merges *m, uint32_t left, uint32_t right,
                                 uint32_t rank, uint32_t made)
{
    if (2 * (m->n + 1) > m->n_slot)
        TRY(grow_merges(m));
    uint64_t pair = (uint64_t)left << 32 | right;
    struct token_merge *s = merge_slot(m, pair);
    m->n += s->rank == TOKEN_NONE;
    *s = (struct token_merge){.pair = pair, .rank = rank, .made = made};
    return RXT_OK;
}

void token_merges_free(struct token_merges *m)
{
    mem_free(m->slot);
    *m = (struct token_merges){0};
}
