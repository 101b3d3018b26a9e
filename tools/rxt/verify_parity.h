/* The part of `rxt verify` that puts a backend beside the CPU. */
#ifndef RXT_TOOLS_VERIFY_PARITY_H
#define RXT_TOOLS_VERIFY_PARITY_H

#include "rxt/rxt.h"

/* Plays the queries of a conversation.json on the model and on the CPU in float32. The greedy
 * answers are the CPU's, and both read them: so every token is compared at the same history, and
 * one near tie does not decide what follows. Prints a line a turn (JSON: an object). *good: the
 * model's choice is the CPU's wherever the CPU's best logit is above the second by more than 0.1
 * standard deviations of its logits, and its memory is within 2e-2 of the CPU's, relative, after
 * each of the first 14 turns. Source: design-gpu H. */
enum rxt_status verify_parity(const struct rxt_model *m, const char *path, bool json, bool *good,
                              struct rxt_error *err);

#endif
