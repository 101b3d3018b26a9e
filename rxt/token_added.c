#include "rxt/token_impl.h"

#include "kernels/base/mem.h"
#include "kernels/base/utf8.h"

#include <string.h>

void token_tree_init(struct token_tree *tree)
{
    *tree = (struct token_tree){0};
    for (int i = 0; i < 256; i++)
        tree->root[i] = -1;
}

void token_tree_free(struct token_tree *tree)
{
    mem_free(tree->node);
    token_tree_init(tree);
}

/* The node of a byte in the list of siblings that starts at *first; made if it is not there. There
 * must be room for one. */
static int32_t child_of(struct token_tree *tree, int32_t *first, unsigned char byte)
{
    for (int32_t i = *first; i >= 0; i = tree->node[i].sibling)
        if (tree->node[i].byte == byte)
            return i;
    int32_t made = (int32_t)tree->n_node++;
    tree->node[made] =
        (struct token_node){.child = -1, .sibling = *first, .token = -1, .byte = byte};
    *first = made;
    return made;
}

enum rxt_status token_tree_put(struct token_tree *tree, const char *s, size_t len, int32_t token)
{
    size_t cap = tree->cap_node ? tree->cap_node : 256;
    while (cap - tree->n_node < len)
        cap *= 2;
    if (cap > tree->cap_node) {
        struct token_node *node = mem_realloc(tree->node, cap * sizeof *node);
        if (!node)
            return RXT_ENOMEM;
        tree->node = node;
        tree->cap_node = cap;
    }
    int32_t *first = &tree->root[(unsigned char)s[0]];
    int32_t at = -1;
    for (size_t i = 0; i < len; i++) {
        at = child_of(tree, first, (unsigned char)s[i]);
        first = &tree->node[at].child;
    }
    if (tree->node[at].token >= 0)
        return RXT_EEXIST;
    tree->node[at].token = token;
    tree->n_token++;
    return RXT_OK;
}

/* The longest string of the tree that s[0..n) begins with: its token, or -1; *len its bytes. */
static int32_t longest(const struct token_tree *tree, const char *s, size_t n, size_t *len)
{
    int32_t found = -1;
    int32_t at = tree->root[(unsigned char)s[0]];
    for (size_t i = 1; at >= 0; i++) {
        if (tree->node[at].token >= 0) {
            found = tree->node[at].token;
            *len = i;
        }
        if (i == n)
            break;
        at = tree->node[at].child;
        while (at >= 0 && tree->node[at].byte != (unsigned char)s[i])
            at = tree->node[at].sibling;
    }
    return found;
}

/* Start of the code point that ends at text + end > text. */
static size_t step_back(const char *text, size_t end)
{
    do
        end--;
    while (((unsigned char)text[end] & 0xC0) == 0x80);
    return end;
}

/* Neither neighbour of [from, to) is a word character. */
static bool is_alone(const char *text, size_t n, size_t from, size_t to)
{
    size_t len;
    return (from == 0 || !token_is_word(utf8_read(text + step_back(text, from), &len))) &&
           (to == n || !token_is_word(utf8_read(text + to, &len)));
}

static size_t space_before(const char *text, size_t from)
{
    while (from > 0) {
        size_t len, back = step_back(text, from);
        if (!token_is_space(utf8_read(text + back, &len)))
            break;
        from = back;
    }
    return from;
}

static size_t space_after(const char *text, size_t n, size_t to)
{
    while (to < n) {
        size_t len;
        if (!token_is_space(utf8_read(text + to, &len)))
            break;
        to += len;
    }
    return to;
}

/* As the library does it, to the letter: a match that does not count (a special token in plain
 * text, a single_word inside a word) still hides those that overlap it, and white space stripped to
 * the right may be claimed again by a token of white space. */
enum rxt_status token_cut(struct token_scratch *s, const struct token_tree *tree, const char *text,
                          size_t n, token_part plain)
{
    size_t done = 0; /* text before this is emitted */
    size_t at = tree->n_token ? 0 : n;
    while (at < n) {
        size_t len = 0;
        int32_t k = longest(tree, text + at, n - at, &len);
        if (k < 0) {
            at++;
            continue;
        }
        const struct token_added *a = &s->t->added[k];
        size_t from = at, to = at + len;
        at = to;
        if (s->mode == RXT_PLAIN && a->special)
            continue;
        if (a->single_word && !is_alone(text, n, from, to))
            continue;
        if (a->lstrip) {
            from = space_before(text, from);
            if (from < done)
                from = done;
        }
        if (a->rstrip)
            to = space_after(text, n, to);
        if (done < from)
            TRY(plain(s, text + done, from - done));
        token_emit(s, a->id);
        done = to;
    }
    return done < n ? plain(s, text + done, n - done) : RXT_OK;
}
