/* Text to ids and back: byte-level BPE as a tokenizer.json describes it (spec 4).
 *
 * Encoding equals the `tokenizers` library for the settings that are accepted: added tokens with
 * their flags; normalizers NFC NFD NFKC NFKD Lowercase Prepend Replace; pre-tokenizers ByteLevel
 * Split Digits, alone or in a Sequence that ends with ByteLevel. Anything else in the file is
 * refused by name. Not looked at: post_processor (spec 4), truncation and padding (nothing is cut
 * in silence, design 8). Tables are those of Unicode 15.
 *
 * Threads: open, mark, then share. Encoding borrows its scratch memory from a pool inside; after
 * one call a thread, nothing is allocated unless a text is longer than all before. */
#ifndef RXT_TOKENIZER_IMPL_H
#define RXT_TOKENIZER_IMPL_H

#include "rxt/rxt.h"

struct tokenizer; /* opaque */

#define TOKENIZER_FILE_MAX ((size_t)128 << 20) /* bytes of a tokenizer.json */
#define TOKENIZER_TEXT_MAX ((size_t)16 << 20)  /* bytes of a text to encode, also normalized */

/* Gives *out, read from a tokenizer.json. The error names file, byte and field. EIO, EFORMAT (not
 * a tokenizer), EUTF8, EUNSUPPORTED (a setting we do not have), ELIMIT, ENOMEM. */
enum rxt_status tokenizer_open(struct tokenizer **out, const char *path, struct rxt_error *err);
/* The same from text[0..len), which is not kept. */
enum rxt_status tokenizer_parse(struct tokenizer **out, const char *text, size_t len,
                                struct rxt_error *err);
void tokenizer_destroy(struct tokenizer **t); /* NULL-safe; sets *t to NULL */

/* Makes an id special, as if the file said so: decoding skips it. For the ids of the model's
 * config, before the tokenizer is shared. EINVAL if it has no such id, EUNSUPPORTED if plain text
 * could yield it (spec 4, design 8: text of users must not forge the borders of a turn). */
enum rxt_status tokenizer_mark_special(struct tokenizer *t, int32_t id, struct rxt_error *err);

/* Ids are 0 .. tokenizer_n_id - 1; the file may leave holes. */
int32_t tokenizer_n_id(const struct tokenizer *t);
/* The id of a string as the file has it ("[EOS]", or "Ġhello" in the byte alphabet); -1 if none. */
int32_t tokenizer_id(const struct tokenizer *t, const char *token, size_t len);
/* The string of an id as the file has it, lent and terminated; NULL for a hole or no id. */
const char *tokenizer_token(const struct tokenizer *t, int32_t id);
bool tokenizer_is_special(const struct tokenizer *t, int32_t id);

/* ids of text[0..len) as rxt_encode: *n is the number needed, ids[0..cap) hold the first of them,
 * ELIMIT if cap is too small. RXT_SPECIAL cuts the text at all added tokens. RXT_PLAIN takes the
 * strings of special tokens as plain text (and cuts at the others): it never yields a special id,
 * save the unknown token for bytes that the vocabulary lacks. A byte the vocabulary lacks where
 * there is no unknown token yields nothing, as in the library.
 * EUTF8 with the offset of the first bad byte; ELIMIT also above TOKENIZER_TEXT_MAX or where a
 * pattern of the file needs too many steps; ENOMEM. */
enum rxt_status tokenizer_encode(const struct tokenizer *t, enum rxt_text_mode mode,
                                 const char *text, size_t len, int32_t *ids, size_t cap, size_t *n,
                                 struct rxt_error *err);

/* Writes what id adds to the text and returns its bytes: complete code points only, the beginning
 * of another is held in d, and what is no UTF-8 becomes U+FFFD (one for each maximal subpart, as
 * everywhere). Special tokens add nothing unless keep_special; nor does an id without a string.
 * A token adds the bytes that the letters of its string stand for; one with other characters, or
 * an added one that merging never makes, its string (the library garbles the latter where it is
 * not ASCII). */
size_t tokenizer_decode(const struct tokenizer *t, struct rxt_text *d, bool keep_special,
                        int32_t id, char out[RXT_PIECE_MAX]);
/* The end of the text: what is still held becomes one U+FFFD. d starts anew. */
size_t tokenizer_decode_end(struct rxt_text *d, char out[RXT_PIECE_MAX]);

#endif
