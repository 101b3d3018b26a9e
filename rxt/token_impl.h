/* What the files of the tokenizer share: its tables, and the scratch memory of one encoding.
 *
 * A text goes through them in this order, each calling the next for every part it finds:
 *   token_encode.c   check, cut at added tokens (token_added.c), normalize (token_normal.c)
 *   token_split.c    the pre-tokenizer's steps, each with a pattern (token_pattern.c)
 *   token_bpe.c      a piece becomes ids */
#ifndef RXT_TOKEN_IMPL_H
#define RXT_TOKEN_IMPL_H

#include "rxt/tokenizer_impl.h"

#define TOKEN_ID_MAX (UINT32_C(1) << 20) /* ids are below: bounds the tables a file can ask for */
#define TOKEN_NONE UINT32_MAX
#define TOKEN_STEP_MAX 16 /* steps of a normalizer or a pre-tokenizer */

/* ---- vocabulary (token_vocab.c) --------------------------------------------------------- */

enum token_flag {
    TOKEN_MODEL = 1,   /* in the model's vocabulary */
    TOKEN_ADDED = 2,   /* in added_tokens; a token is one of the two at least */
    TOKEN_SPECIAL = 4, /* never from plain text, skipped by decoding */
    TOKEN_MADE = 8,    /* the letter of a byte, or the result of a merge */
};
struct token_entry {
    uint32_t at; /* of the string in text */
    uint16_t len;
    uint16_t flags;
};
struct token_vocab {
    char *text; /* strings, each with a NUL behind */
    size_t n_text, cap_text;
    struct token_entry *entry; /* by id; a hole has no flags */
    size_t n_id, cap_id;
    struct token_slot {
        uint32_t id, hash;
    } * slot; /* hash table, id TOKEN_NONE where empty; n_slot a power of two */
    size_t n_slot, n_token;
};
/* Puts a string under an id, as TOKEN_MODEL or TOKEN_ADDED. EEXIST if string or id is taken, ELIMIT
 * for what the tables cannot hold: the id, or a string that would decode to more than RXT_PIECE_MAX
 * bytes. */
enum rxt_status token_vocab_put(struct token_vocab *v, enum token_flag origin, uint32_t id,
                                const char *s, size_t len);
uint32_t token_vocab_find(const struct token_vocab *v, const char *s, size_t len); /* TOKEN_NONE */
void token_vocab_free(struct token_vocab *v);

/* The byte alphabet of spec 4: byte 0..255 to code point, and back (-1: no letter of it). */
int32_t token_letter(int byte);
int token_letter_byte(int32_t cp);

struct token_merge {
    uint64_t pair; /* left id << 32 | right id */
    uint32_t rank; /* TOKEN_NONE: empty slot */
    uint32_t made; /* id of the result */
};
struct token_merges {
    struct token_merge *slot; /* hash table, n_slot a power of two */
    size_t n_slot, n;
};
enum rxt_status token_merges_init(struct token_merges *m);
/* Adds a pair, or gives it a new rank: the last of equal pairs counts. */
enum rxt_status token_merges_put(struct token_merges *m, uint32_t left, uint32_t right,
                                 uint32_t rank, uint32_t made);
void token_merges_free(struct token_merges *m);

static inline size_t token_merge_hash(uint64_t pair)
{
    uint64_t h = pair * UINT64_C(0x9E3779B97F4A7C15);
    return (size_t)(h ^ h >> 32);
}
/* NULL if the pair does not merge. */
static inline const struct token_merge *token_merges_find(const struct token_merges *m,
                                                          uint32_t left, uint32_t right)
{
    uint64_t pair = (uint64_t)left << 32 | right;
    for (size_t i = token_merge_hash(pair);; i++) {
        const struct token_merge *s = &m->slot[i & (m->n_slot - 1)];
        if (s->rank == TOKEN_NONE)
            return NULL;
        if (s->pair == pair)
            return s;
    }
}

/* ---- added tokens (token_added.c) ------------------------------------------------------- */

struct token_added {
    uint32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
};
/* All strings of added tokens as one tree of bytes; `token` is an index into tokenizer.added, -1
 * inside a string. */
struct token_tree {
    struct token_node {
        int32_t child, sibling, token;
        unsigned char byte;
    } * node;
    size_t n_node, cap_node;
    int32_t root[256]; /* node of the first byte, -1 if none */
    size_t n_token;
};
void token_tree_init(struct token_tree *tree);
/* Puts a string. EEXIST if it is there. */
enum rxt_status token_tree_put(struct token_tree *tree, const char *s, size_t len, int32_t token);
void token_tree_free(struct token_tree *tree);

/* ---- patterns (token_pattern.c, token_regex.c) ------------------------------------------ */

struct token_regex;   /* a compiled expression, shared */
struct token_matcher; /* what one thread needs to run any of them */

/* A regular expression in the dialect of the library (Oniguruma, Ruby syntax), as far as PCRE2 can
 * be made to mean the same; the rest is EUNSUPPORTED with the reason in *why. */
enum rxt_status token_regex_create(struct token_regex **out, const char *pattern, size_t len,
                                   struct rxt_error *why);
void token_regex_destroy(struct token_regex **re); /* NULL-safe */
enum rxt_status token_matcher_create(struct token_matcher **out);
void token_matcher_destroy(struct token_matcher **m); /* NULL-safe */
/* The first match in text[from..n): [*start, *end). ENOTFOUND, ELIMIT. */
enum rxt_status token_regex_find(const struct token_regex *re, struct token_matcher *m,
                                 const char *text, size_t n, size_t from, size_t *start,
                                 size_t *end, struct rxt_error *err);

enum token_pattern_kind {
    PATTERN_GPT2,    /* the expression of spec 4.3, by hand */
    PATTERN_REGEX,   /* any other */
    PATTERN_LITERAL, /* a string */
    PATTERN_NUMBER,  /* one code point of a category N* */
};
struct token_pattern {
    enum token_pattern_kind kind;
    char *literal;
    size_t len;
    struct token_regex *regex;
};
#define TOKEN_GPT2 \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
/* End of the piece of the GPT-2 expression that begins at p < end. */
const char *token_gpt2_next(const char *p, const char *end);
/* As token_regex_find for any kind. */
enum rxt_status token_pattern_find(const struct token_pattern *p, struct token_matcher *m,
                                   const char *text, size_t n, size_t from, size_t *start,
                                   size_t *end, struct rxt_error *err);
void token_pattern_free(struct token_pattern *p);

/* ---- settings --------------------------------------------------------------------------- */

enum token_normal_kind {
    NORMAL_NFC,
    NORMAL_NFD,
    NORMAL_NFKC,
    NORMAL_NFKD,
    NORMAL_LOWERCASE,
    NORMAL_PREPEND,
    NORMAL_REPLACE,
};
struct token_normal {
    enum token_normal_kind kind;
    struct token_pattern pattern; /* REPLACE */
    char *text;                   /* PREPEND: what; REPLACE: by what */
    size_t len;
};

enum token_behavior {
    SPLIT_REMOVED,
    SPLIT_ISOLATED,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS,
};
struct token_split {
    struct token_pattern pattern;
    enum token_behavior behavior;
    bool invert; /* what matches and what does not change places */
};

struct tokenizer {
    struct token_vocab vocab;
    struct token_merges merges;
    uint32_t byte_id[256]; /* letter of a byte; TOKEN_NONE if the vocabulary lacks it */
    uint32_t unk;          /* TOKEN_NONE if none */
    bool fuse_unk, ignore_merges;

    struct token_added *added; /* in the order of the file */
    size_t n_added;
    struct token_tree raw, normalized; /* strings to cut before and after the normalizer */

    struct token_normal normal[TOKEN_STEP_MAX];
    size_t n_normal;
    struct token_split split[TOKEN_STEP_MAX]; /* before ByteLevel */
    size_t n_split;
    bool has_byte_level, add_prefix_space, gpt2_split; /* the last step */

    struct token_pool *pool;
};

/* Fill an empty tokenizer from a tokenizer.json: all of it but trees and pool (token_file.c), and
 * its objects (token_model.c, token_steps.c), whose failures stay in the reader. */
enum rxt_status token_file_read(struct tokenizer *t, const char *name, const char *text, size_t len,
                                struct rxt_error *err);
struct json_reader;
void token_put(struct tokenizer *t, struct json_reader *r, enum token_flag origin, uint32_t id,
               const char *s, size_t len);
void token_model_read(struct tokenizer *t, struct json_reader *r);
void token_normalizer_read(struct tokenizer *t, struct json_reader *r);
void token_pre_tokenizer_read(struct tokenizer *t, struct json_reader *r);

/* ---- encoding --------------------------------------------------------------------------- */

struct token_buffer {
    char *data;
    size_t n, cap;
};
/* Makes cap - n >= more. */
enum rxt_status token_buffer_room(struct token_buffer *b, size_t more);
enum rxt_status token_buffer_put(struct token_buffer *b, const char *s, size_t n);

struct token_bpe; /* token_bpe.c: cache of pieces, arrays of a long one */

struct token_scratch {
    const struct tokenizer *t;
    struct token_scratch *next; /* in the pool */
    struct token_matcher *matcher;
    struct token_bpe *bpe;
    struct token_buffer normal[2]; /* a step reads one and writes the other */
    struct token_buffer points;    /* int32_t code points of a run */
    struct token_buffer prefixed;  /* a part with the prefix space */

    /* Of the call: */
    enum rxt_text_mode mode;
    int32_t *ids;
    size_t cap, n;
    struct rxt_error *err;
};
enum rxt_status token_scratch_create(struct token_scratch **out, const struct tokenizer *t);
void token_scratch_destroy(struct token_scratch **s); /* NULL-safe */
size_t token_scratch_bytes(const struct token_scratch *s);
enum rxt_status token_encode(struct token_scratch *s, const char *text, size_t n);

/* Gives the normalized text, lent until the next call. */
enum rxt_status token_normalize(struct token_scratch *s, const char *text, size_t n,
                                const char **out, size_t *n_out);

/* Calls `plain` for each part between added tokens that is not empty, and emits the tokens. */
typedef enum rxt_status (*token_part)(struct token_scratch *s, const char *text, size_t n);
enum rxt_status token_cut(struct token_scratch *s, const struct token_tree *tree, const char *text,
                          size_t n, token_part plain);

/* Runs the pre-tokenizer over a part and emits the ids of its pieces. */
enum rxt_status token_split_part(struct token_scratch *s, const char *text, size_t n);

enum rxt_status token_bpe_create(struct token_bpe **out);
void token_bpe_destroy(struct token_bpe **b); /* NULL-safe */
size_t token_bpe_bytes(const struct token_bpe *b);
/* Emits the ids of one piece, n > 0. */
enum rxt_status token_bpe_piece(struct token_scratch *s, const char *piece, size_t n);

static inline void token_emit(struct token_scratch *s, uint32_t id)
{
    if (s->n < s->cap)
        s->ids[s->n] = (int32_t)id;
    s->n++;
}

/* ---- classes of code points (token_class.c) --------------------------------------------- */

enum token_class { CLASS_OTHER, CLASS_LETTER, CLASS_NUMBER, CLASS_SPACE };
extern const unsigned char token_class_ascii[128];
enum token_class token_class_wide(int32_t cp); /* any code point */
bool token_is_space(int32_t cp);               /* White_Space */
bool token_is_word(int32_t cp); /* \w of the regex crate, which single_word means: Alphabetic, M,
                                 * Nd, Pc, Join_Control */

#endif
