/* A small random model with all tokens of Beta and a tokenizer of single bytes. */
#ifndef RXT_TESTS_RXT_BETA_H
#define RXT_TESTS_RXT_BETA_H

#include <stdbool.h>
#include <stdint.h>

enum { /* ids */
       BETA_PAD,
       BETA_BOS,
       BETA_EOS,
       BETA_Q,
       BETA_A,
       BETA_T,
       BETA_C,
       BETA_U,
       BETA_I,
       BETA_UNK,
       BETA_BYTE, /* + byte */
       BETA_VOCAB = BETA_BYTE + 256
};

/* Writes config.json, model.safetensors and tokenizer.json (with or without add_prefix_space).
 * max_seq_len 0: seq_len, 64. */
void beta_write(const char *dir, uint64_t seed, bool prefix_space, int max_seq_len);
/* Appends the ids of the bytes of text; returns the new n. */
int beta_bytes(int32_t *ids, int n, const char *text);

#endif
