/* The objects "normalizer" and "pre_tokenizer". Which fields belong to one depends on its type, and
 * the type may stand last: each object is read twice, first for its type. */
#include "rxt/token_impl.h"

#include "rxt/token_json_impl.h"

#include "kernels/base/mem.h"

#include <string.h>

#define TEXT_MAX 4096 /* bytes of a pattern, or of a text to put in */

static bool equals(const char *s, size_t len, const char *name)
{
    return strlen(name) == len && memcmp(s, name, len) == 0;
}

/* ---- parts of both ---------------------------------------------------------------------- */

struct step_type {
    const char *name;
    void (*read)(struct tokenizer *t, struct json_reader *r, int kind);
    int kind;
};

/* Reads an object as its "type" says; types end with a name of NULL. */
static void read_typed(struct tokenizer *t, struct json_reader *r, const char *what,
                       const struct step_type *types)
{
    char buf[JSON_KEY_MAX], type_buf[JSON_KEY_MAX];
    const char *key, *type = "";
    size_t len, type_len = 0;
    struct json_reader ahead = *r;
    if (reader_enter(&ahead, '{'))
        while (reader_key(&ahead, buf, sizeof buf, &key, &len)) {
            if (equals(key, len, "type"))
                (void)reader_string(&ahead, "type", type_buf, sizeof type_buf, &type, &type_len);
            else
                reader_skip(&ahead);
        }
    r->st = reader_status(&ahead);
    if (r->st != RXT_OK)
        return;
    for (; types->name; types++)
        if (equals(type, type_len, types->name)) {
            types->read(t, r, types->kind);
            return;
        }
    char text[JSON_KEY_MAX + 32] = "type is not supported: ";
    memcpy(text + strlen(text), type, type_len);
    reader_fail(r, RXT_EUNSUPPORTED, what, text);
}

/* Fails if a field of `need` (a bit for each) did not come. */
static void need_fields(struct json_reader *r, const char *what, uint32_t seen, uint32_t need)
{
    if ((seen & need) != need)
        reader_fail(r, RXT_EFORMAT, what, "a field is missing");
}

/* A copy of a string. */
static void read_text(struct json_reader *r, const char *what, char **text, size_t *len)
{
    char buf[TEXT_MAX];
    const char *s;
    if (!reader_string(r, what, buf, sizeof buf, &s, len))
        return;
    *text = mem_alloc(*len + 1);
    if (*text)
        memcpy(*text, s, *len);
    else
        reader_fail(r, RXT_ENOMEM, what, rxt_status_text(RXT_ENOMEM));
}

static void read_expression(struct json_reader *r, struct token_pattern *p)
{
    char buf[TEXT_MAX];
    const char *s;
    size_t len;
    struct rxt_error why = {""};
    if (!reader_string(r, "Regex", buf, sizeof buf, &s, &len))
        return;
    if (equals(s, len, TOKEN_GPT2)) {
        p->kind = PATTERN_GPT2;
        return;
    }
    p->kind = PATTERN_REGEX;
    enum rxt_status st = token_regex_create(&p->regex, s, len, &why);
    if (st != RXT_OK)
        reader_fail(r, st, "pattern", why.text[0] ? why.text : rxt_status_text(st));
}

/* {"String": ".."} or {"Regex": ".."} */
static void read_pattern(struct json_reader *r, struct token_pattern *p)
{
    enum { STRING, REGEX };
    static const char *const names[] = {"String", "Regex", NULL};
    uint32_t seen = 0;
    if (!reader_enter(r, '{'))
        return;
    for (int f; (f = reader_field(r, "pattern", names, &seen)) >= 0;) {
        if (seen == 3) {
            reader_fail(r, RXT_EFORMAT, "pattern", "both String and Regex");
        } else if (f == REGEX) {
            read_expression(r, p);
        } else {
            p->kind = PATTERN_LITERAL;
            read_text(r, "String", &p->literal, &p->len);
            if (p->len == 0)
                reader_fail(r, RXT_EUNSUPPORTED, "pattern", "empty string");
        }
    }
    if (seen == 0)
        reader_fail(r, RXT_EFORMAT, "pattern", "neither String nor Regex");
}

/* ---- normalizer ------------------------------------------------------------------------- */

static struct token_normal *new_normal(struct tokenizer *t, struct json_reader *r, int kind)
{
    if (t->n_normal == TOKEN_STEP_MAX) {
        reader_fail(r, RXT_ELIMIT, "normalizer", "more than 16 steps");
        return NULL;
    }
    struct token_normal *n = &t->normal[t->n_normal++];
    n->kind = (enum token_normal_kind)kind;
    return n;
}

/* Any of those that replace code points: which fields it has is the only difference. */
static void read_normal(struct tokenizer *t, struct json_reader *r, int kind)
{
    enum { TYPE, TEXT, PATTERN };
    static const char *const form[] = {"type", NULL};
    static const char *const prepend[] = {"type", "prepend", NULL};
    static const char *const replace[] = {"type", "content", "pattern", NULL};
    const char *const *names = kind == NORMAL_PREPEND   ? prepend
                               : kind == NORMAL_REPLACE ? replace
                                                        : form;
    uint32_t need = kind == NORMAL_PREPEND   ? 1u << TEXT
                    : kind == NORMAL_REPLACE ? 1u << TEXT | 1u << PATTERN
                                             : 0;
    uint32_t seen = 0;
    struct token_normal *n = new_normal(t, r, kind);
    if (!n || !reader_enter(r, '{'))
        return;
    for (int f; (f = reader_field(r, "normalizer", names, &seen)) >= 0;) {
        if (f == TYPE)
            reader_skip(r);
        else if (f == PATTERN)
            read_pattern(r, &n->pattern);
        else
            read_text(r, names[f], &n->text, &n->len);
    }
    need_fields(r, "normalizer", seen, need);
}

static void read_normalizers(struct tokenizer *t, struct json_reader *r, int kind)
{
    (void)kind;
    static const char *const names[] = {"type", "normalizers", NULL};
    uint32_t seen = 0;
    if (!reader_enter(r, '{'))
        return;
    for (int f; (f = reader_field(r, "normalizer", names, &seen)) >= 0;) {
        if (f == 0)
            reader_skip(r);
        else if (reader_enter(r, '['))
            while (reader_item(r))
                token_normalizer_read(t, r);
    }
    need_fields(r, "normalizer", seen, 3);
}

void token_normalizer_read(struct tokenizer *t, struct json_reader *r)
{
    static const struct step_type types[] = {
        {"NFC", read_normal, NORMAL_NFC},
        {"NFD", read_normal, NORMAL_NFD},
        {"NFKC", read_normal, NORMAL_NFKC},
        {"NFKD", read_normal, NORMAL_NFKD},
        {"Lowercase", read_normal, NORMAL_LOWERCASE},
        {"Prepend", read_normal, NORMAL_PREPEND},
        {"Replace", read_normal, NORMAL_REPLACE},
        {"Sequence", read_normalizers, 0},
        {NULL, NULL, 0},
    };
    read_typed(t, r, "normalizer", types);
}

/* ---- pre-tokenizer ---------------------------------------------------------------------- */

static struct token_split *new_split(struct tokenizer *t, struct json_reader *r)
{
    if (t->has_byte_level)
        reader_fail(r, RXT_EUNSUPPORTED, "pre_tokenizer", "a step after ByteLevel");
    else if (t->n_split == TOKEN_STEP_MAX)
        reader_fail(r, RXT_ELIMIT, "pre_tokenizer", "more than 16 steps");
    return reader_status(r) == RXT_OK ? &t->split[t->n_split++] : NULL;
}

static void read_behavior(struct json_reader *r, enum token_behavior *behavior)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    char buf[JSON_KEY_MAX];
    const char *s;
    size_t len;
    if (!reader_string(r, "behavior", buf, sizeof buf, &s, &len))
        return;
    for (int i = 0; i < 5; i++)
        if (equals(s, len, names[i])) {
            *behavior = (enum token_behavior)i;
            return;
        }
    reader_fail(r, RXT_EUNSUPPORTED, "behavior", "unknown");
}

static void read_split(struct tokenizer *t, struct json_reader *r, int kind)
{
    (void)kind;
    enum { TYPE, PATTERN, BEHAVIOR, INVERT };
    static const char *const names[] = {"type", "pattern", "behavior", "invert", NULL};
    uint32_t seen = 0;
    struct token_split *split = new_split(t, r);
    if (!split || !reader_enter(r, '{'))
        return;
    for (int f; (f = reader_field(r, "Split", names, &seen)) >= 0;) {
        if (f == TYPE)
            reader_skip(r);
        else if (f == PATTERN)
            read_pattern(r, &split->pattern);
        else if (f == BEHAVIOR)
            read_behavior(r, &split->behavior);
        else
            (void)reader_bool(r, "invert", &split->invert);
    }
    need_fields(r, "Split", seen, 0xF);
}

static void read_digits(struct tokenizer *t, struct json_reader *r, int kind)
{
    (void)kind;
    static const char *const names[] = {"type", "individual_digits", NULL};
    uint32_t seen = 0;
    bool individual = false;
    struct token_split *split = new_split(t, r);
    if (!split || !reader_enter(r, '{'))
        return;
    for (int f; (f = reader_field(r, "Digits", names, &seen)) >= 0;) {
        if (f == 0)
            reader_skip(r);
        else
            (void)reader_bool(r, names[f], &individual);
    }
    need_fields(r, "Digits", seen, 3);
    split->pattern.kind = PATTERN_NUMBER;
    split->behavior = individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
}

static void read_byte_level(struct tokenizer *t, struct json_reader *r, int kind)
{
    (void)kind;
    enum { TYPE, ADD_PREFIX_SPACE, USE_REGEX, TRIM_OFFSETS };
    static const char *const names[] = {"type", "add_prefix_space", "use_regex", "trim_offsets",
                                        NULL};
    uint32_t seen = 0;
    bool trim; /* moves offsets, not ids */
    if (t->has_byte_level)
        reader_fail(r, RXT_EUNSUPPORTED, "pre_tokenizer", "a step after ByteLevel");
    if (!reader_enter(r, '{'))
        return;
    t->has_byte_level = t->gpt2_split = true;
    for (int f; (f = reader_field(r, "ByteLevel", names, &seen)) >= 0;) {
        if (f == TYPE)
            reader_skip(r);
        else
            (void)reader_bool(r, names[f],
                              f == ADD_PREFIX_SPACE ? &t->add_prefix_space
                              : f == USE_REGEX      ? &t->gpt2_split
                                                    : &trim);
    }
    need_fields(r, "ByteLevel", seen, 1u << ADD_PREFIX_SPACE);
}

static void read_pre_tokenizers(struct tokenizer *t, struct json_reader *r, int kind);

static void read_pre_tokenizer(struct tokenizer *t, struct json_reader *r)
{
    static const struct step_type types[] = {
        {"ByteLevel", read_byte_level, 0},    {"Split", read_split, 0}, {"Digits", read_digits, 0},
        {"Sequence", read_pre_tokenizers, 0}, {NULL, NULL, 0},
    };
    read_typed(t, r, "pre_tokenizer", types);
}

static void read_pre_tokenizers(struct tokenizer *t, struct json_reader *r, int kind)
{
    (void)kind;
    static const char *const names[] = {"type", "pretokenizers", NULL};
    uint32_t seen = 0;
    if (!reader_enter(r, '{'))
        return;
    for (int f; (f = reader_field(r, "pre_tokenizer", names, &seen)) >= 0;) {
        if (f == 0)
            reader_skip(r);
        else if (reader_enter(r, '['))
            while (reader_item(r))
                read_pre_tokenizer(t, r);
    }
    need_fields(r, "pre_tokenizer", seen, 3);
}

void token_pre_tokenizer_read(struct tokenizer *t, struct json_reader *r)
{
    read_pre_tokenizer(t, r);
    if (!t->has_byte_level)
        reader_fail(r, RXT_EUNSUPPORTED, "pre_tokenizer", "no ByteLevel: only byte-level BPE");
}
