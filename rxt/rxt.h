/* librxt: open a Reactive Transformer, answer turns, keep its memory. No server, no files but the
 * model's. Two levels in one door:
 *
 *   sessions  rxt_session_*: one conversation in a few calls; for programs that embed a model.
 *   engine    rxt_worker, rxt_forward, rxt_memorize: batches over many sessions; for servers.
 *
 * A turn: prompt ids -> prefill -> decode until [EOS] or the limit -> the exact ids go through the
 * memory encoder -> memory attention makes the next version of the memory (spec 1.2).
 *
 * Threads: a model is immutable after rxt_model_open and shared by all. Everything else has one
 * owner at a time. Names: L stateful layers, S slots, D embed_dim, V vocabulary, T tokens. What is
 * given through **out is NULL on failure; err may be NULL. */
#ifndef RXT_RXT_H
#define RXT_RXT_H

#include "stm/stm.h"

struct rxt_model;   /* opaque: weights, tokenizer, config */
struct rxt_read;    /* opaque: K/V of one version of a memory, all that answering needs of it */
struct rxt_slot;    /* opaque: self-attention K/V of one turn */
struct rxt_worker;  /* opaque: a lane with the activations of the largest batch */
struct rxt_session; /* opaque: one conversation */

/* ---- model ------------------------------------------------------------------------------ */

struct rxt_model_options { /* zeroed = defaults */
    const char *backend;   /* "cpu", "cuda", "auto" (NULL) */
    int n_thread;          /* 0 = all processors of the process */
    const char *dtype;     /* storage of weights (and what cuda computes in): "f32", "bf16"; NULL =
                            * as the file */
    int32_t max_seq_len;   /* tokens of one interaction, query and answer; 0 = of the config */
};

/* Opens a checkpoint directory: config.json, model.safetensors (or an index and shards),
 * tokenizer.json. Gives *out. err names file and tensor or field. EIO, EFORMAT, EUNSUPPORTED,
 * EMISMATCH, ESHAPE, EINVAL, ENOMEM. Source: spec 3. */
enum rxt_status rxt_model_open(struct rxt_model **out, const char *dir,
                               const struct rxt_model_options *opt, struct rxt_error *err);
/* A model of a named shape (spec 8: "beta-3b", "alpha-12m", "preview"; "wide-memory") with random
 * weights made in memory, without a tokenizer: for benchmarks. Gives *out. ENOTFOUND: no such
 * shape; EINVAL, EUNSUPPORTED, ENOMEM. */
enum rxt_status rxt_model_random(struct rxt_model **out, const char *shape, uint64_t seed,
                                 const struct rxt_model_options *opt, struct rxt_error *err);
void rxt_model_close(struct rxt_model **m); /* NULL-safe; after its sessions and workers */

struct rxt_info {
    char name[64];    /* folder or shape */
    uint8_t hash[16]; /* XXH3-128 over config.json, tokenizer.json, weight files (design 5) */
    int32_t n_layer, n_slot, embed_dim, n_vocab;
    int32_t max_seq_len; /* tokens of one interaction at most */
    uint64_t n_param_decoder, n_param_encoder, n_param_memory;
    enum dtype storage;     /* of the weights */
    enum stm_init stm_init; /* what a new memory starts from */
    bool has_tokenizer;
    bool has_thinking;          /* [T] exists: modes extended and auto */
    bool has_tool;              /* [U] and [C] exist */
    bool has_internal;          /* [I] exists: system prompts in the form of Beta */
    int32_t eos, answer, think; /* ids of [EOS], [A], [T]; -1 = none */
    size_t weight_bytes;        /* resident for the weights */
    size_t stm_bytes;           /* one memory in float32 */
    size_t read_bytes;          /* one rxt_read */
    size_t slot_bytes;          /* one rxt_slot of max_seq_len tokens */
};
const struct rxt_info *rxt_model_info(const struct rxt_model *m);
struct backend *rxt_model_backend(const struct rxt_model *m);
/* Config of a memory of this model in the given dtype; for stm_create and stm_pool_create. */
struct stm_config rxt_model_stm(const struct rxt_model *m, enum dtype dtype);

/* ---- text and ids ----------------------------------------------------------------------- */

enum rxt_text_mode {
    RXT_PLAIN,   /* text of users: the strings of special tokens are plain text */
    RXT_SPECIAL, /* templates: they become their ids */
};
/* ids of a text. *n is the number needed, also when it exceeds cap (ELIMIT, the first cap are
 * written). EUTF8 with the byte offset in err. EUNSUPPORTED without a tokenizer. */
enum rxt_status rxt_encode(const struct rxt_model *m, enum rxt_text_mode mode, const char *text,
                           size_t bytes, int32_t *ids, size_t cap, size_t *n,
                           struct rxt_error *err);

/* Streaming decoder: complete code points only, an incomplete one is held back. Plain; zero it to
 * start. */
struct rxt_text {
    uint8_t held[4];
    uint8_t n_held;
};
#define RXT_PIECE_MAX 1024 /* bytes one id can add at most */
/* Text that id adds, not terminated: returns its bytes. Special tokens add nothing. */
size_t rxt_decode(const struct rxt_model *m, struct rxt_text *t, int32_t id,
                  char out[RXT_PIECE_MAX]);
/* What was held back at the end becomes U+FFFD. */
size_t rxt_decode_end(struct rxt_text *t, char out[RXT_PIECE_MAX]);
/* The string of a token as the file has it ("[EOS]", byte alphabet); NULL if there is none. */
const char *rxt_token_text(const struct rxt_model *m, int32_t id);

enum rxt_thinking { RXT_FAST, RXT_EXTENDED, RXT_AUTO }; /* spec 1.5 */
struct rxt_prompt {          /* all texts UTF-8, NULL = absent; user text is encoded RXT_PLAIN */
    const char *query;       /* [Q] */
    const char *tool_result; /* [U], wins over query */
    const char *internal;    /* [I] */
    enum rxt_thinking thinking;
};
#define RXT_ANSWER_MIN 16 /* tokens of max_seq_len that a prompt must leave for its answer */
/* [BOS] ([I]internal) [Q]query | [U]result and the start token of the mode (none for RXT_AUTO: the
 * first token is drawn with n_choice = 2, choice = {[A], [T]}). Empty internal text is absent.
 * Refuses an empty query or result (EINVAL), a prompt that leaves less than RXT_ANSWER_MIN tokens
 * (ELIMIT, with length and limit), blocks and modes the model has no token for (EUNSUPPORTED), bad
 * UTF-8 (EUTF8). *n as in rxt_encode. Spec 1.2, 1.5, 4; design 8. */
enum rxt_status rxt_prompt_ids(const struct rxt_model *m, const struct rxt_prompt *p, int32_t *ids,
                               size_t cap, size_t *n, struct rxt_error *err);
/* A whole given turn: [BOS][Q]query[A]answer[EOS]; the answer may be empty (NULL). ELIMIT above
 * max_seq_len, else as rxt_prompt_ids. Spec 4. */
enum rxt_status rxt_turn_ids(const struct rxt_model *m, const char *query, const char *answer,
                             int32_t *ids, size_t cap, size_t *n, struct rxt_error *err);
/* A system prompt as one absorbed interaction (spec 1.4): [BOS][I]title\n\ntext[EOS] where the
 * model has [I], else [BOS][Q]text[A][EOS]. Refuses as rxt_turn_ids. */
enum rxt_status rxt_system_ids(const struct rxt_model *m, const char *text, int32_t *ids,
                               size_t cap, size_t *n, struct rxt_error *err);

/* ---- engine ----------------------------------------------------------------------------- */

/* Memory K/V of a session's current version: create once, build after every commit (spec 1.3).
 * ENOMEM. */
enum rxt_status rxt_read_create(struct rxt_read **out, const struct rxt_model *m);
void rxt_read_destroy(struct rxt_read **r); /* NULL-safe */
/* Builds K/V of the published memory [L,S,D] on w's lane and waits for it; what r held is gone.
 * ESHAPE: a memory of other dimensions. EDEVICE. */
enum rxt_status rxt_read_build(struct rxt_read *r, struct rxt_worker *w, const struct stm *memory);
uint64_t rxt_read_version(const struct rxt_read *r); /* of the memory it was built from */

/* Self-attention K/V for one turn of at most max_seq_len tokens; reused turn after turn, there is
 * nothing to reset. ENOMEM. */
enum rxt_status rxt_slot_create(struct rxt_slot **out, const struct rxt_model *m);
void rxt_slot_destroy(struct rxt_slot **s); /* NULL-safe */

enum rxt_work { RXT_WORK_ALL, RXT_WORK_ANSWER, RXT_WORK_MEMORY }; /* which buffers it needs */
struct rxt_worker_config {
    enum lane_priority priority;
    enum rxt_work work; /* ANSWER: no memorize, no update; MEMORY: no forward, no sample */
    int32_t max_rows;   /* rows of one forward or one encoder pass; 0 = max_seq_len */
    int32_t max_seq;    /* sequences of one forward, memories of one update; 0 = 1 */
};
/* Gives *out with everything its calls will need: from here on it allocates nothing. EINVAL: a
 * number below 0; ESHAPE: max_seq memories have more slots than can be counted; ENOMEM. */
enum rxt_status rxt_worker_create(struct rxt_worker **out, const struct rxt_model *m,
                                  const struct rxt_worker_config *cfg);
void rxt_worker_destroy(struct rxt_worker **w); /* NULL-safe */
struct lane *rxt_worker_lane(struct rxt_worker *w);

/* One pass of the decoder over packed rows: prefill chunks and decode steps of any turns. */
struct rxt_batch {
    struct ragged rows;           /* start[i] = position of the first row of sequence i */
    const int32_t *ids;           /* one a row */
    struct rxt_slot *const *slot; /* one a sequence */
    const struct rxt_read *const *read;
    const bool *want; /* one a sequence: logits of its last row; NULL = of all */
};
/* Logits land in the worker: row i for the i-th sequence that wanted them. Any cut of a turn into
 * batches gives the same bits. ESHAPE, before anything is computed: a sequence without rows or past
 * max_seq_len, an id outside the vocabulary, more rows or sequences than the worker was made for.
 * EINVAL: a worker of RXT_WORK_MEMORY. EDEVICE. */
enum rxt_status rxt_forward(struct rxt_worker *w, const struct rxt_batch *b);
/* Logits of every row instead of the last: for comparisons. out [R,V] host memory. */
enum rxt_status rxt_forward_all(struct rxt_worker *w, const struct rxt_batch *b, float *out);
struct tensor rxt_logits(struct rxt_worker *w); /* lent until the next forward */
/* id[i] drawn from row i of the logits; waits for the lane. Refuses parameters out of range
 * (rxt_sampling_check). Spec 5. */
enum rxt_status rxt_sample(struct rxt_worker *w, const struct sampling *how, int32_t n,
                           int32_t *id);
#define RXT_GREEDY ((struct sampling){.top_p = 1})
/* EINVAL naming the parameter: temperature finite and >= 0, top_k >= 0, 0 < top_p <= 1. */
enum rxt_status rxt_sampling_check(const struct sampling *how, struct rxt_error *err);

/* The memory encoder over whole interactions: ED [L][sum T, D], lent by the worker until its next
 * call; *ed points to L tensors. Positions restart at 0 (rows.start NULL). ESHAPE and EINVAL as in
 * rxt_forward. Spec 1.2 step 6, 2.5. */
enum rxt_status rxt_memorize(struct rxt_worker *w, const struct ragged *rows, const int32_t *ids,
                             const struct tensor **ed);
/* Encoder and memory attention in one: spare[i] = m[i] after interaction i, one memory a sequence
 * of rows. Statuses and bad as in stm_update, ESHAPE and EINVAL as in rxt_memorize. Waits for the
 * lane. */
enum rxt_status rxt_update(struct rxt_worker *w, struct stm *const m[],
                           struct stm_spare *const spare[], const struct ragged *rows,
                           const int32_t *ids, bool *bad);

/* ---- look into it ----------------------------------------------------------------------- */

/* What the decoder reads of a memory [L,S,D] while it runs over n ids from position 0, as in
 * rxt_forward. attention [L,n,S]: share of
 * each slot in memory cross-attention, the mean over heads; its sum over slots is 1. entropy [L,n]:
 * -sum p log2 p in bits, the mean over heads; 0 = one slot is read, log2 S = all alike. Either may
 * be NULL. Shares are read off attention of the same queries and keys to values that are unit
 * vectors (spec 1.3, 2.4). Allocates; off the hot path; the logits of w are gone. ESHAPE, EINVAL as
 * in rxt_forward; ENOMEM, EDEVICE. */
enum rxt_status rxt_probe(struct rxt_worker *w, const struct stm *memory, const int32_t *ids,
                          int32_t n, float *attention, float *entropy);
/* rxt_update of one memory with n ids, the same bits, by way of stm_probe: out[layer * S + slot].
 */
enum rxt_status rxt_probe_update(struct rxt_worker *w, struct stm *m, struct stm_spare *spare,
                                 const int32_t *ids, int32_t n, struct stm_slot_probe *out);

/* ---- sessions --------------------------------------------------------------------------- */

/* One worker, slot, memory and K/V of its own: a program with many sessions uses the engine. */
struct rxt_session_options { /* zeroed = defaults */
    uint64_t seed;           /* of a noise memory and of sampling */
    enum dtype stm_dtype;    /* DTYPE_F32 or DTYPE_BF16 */
};
/* Gives *out with its initial memory (rxt_info.stm_init) at version 0; the model is lent, opt may
 * be NULL. ENOMEM; ESHAPE: stm_dtype; ENONFINITE: the checkpoint's memory; EDEVICE. */
enum rxt_status rxt_session_create(struct rxt_session **out, const struct rxt_model *m,
                                   const struct rxt_session_options *opt, struct rxt_error *err);
void rxt_session_destroy(struct rxt_session **s); /* NULL-safe */

enum rxt_finish { RXT_FINISH_EOS, RXT_FINISH_LENGTH, RXT_FINISH_CANCEL };
struct rxt_answer {
    const int32_t *ids; /* query and answer, lent until the next turn */
    int32_t n_query, n_answer;
    enum rxt_finish finish;
};
/* Called for each token with the complete text it adds (may be empty), and once more with id -1 if
 * the answer ends inside a code point; false cancels the turn. */
typedef bool (*rxt_on_token)(void *user, int32_t id, const char *text, size_t bytes);

/* Answers one prompt from the current memory. The memory is not changed: rxt_session_update does
 * that. A cancelled turn leaves nothing to update (ECANCELLED). Of `how`, turn, position and choice
 * are the session's; seed 0 = the session's. on_token and out may be NULL. Else refuses as
 * rxt_prompt_ids and rxt_sampling_check. EDEVICE. */
enum rxt_status rxt_session_turn(struct rxt_session *s, const struct rxt_prompt *p,
                                 const struct sampling *how, rxt_on_token on_token, void *user,
                                 struct rxt_answer *out, struct rxt_error *err);
/* Absorbs the interaction of the last turn: version + 1. EINVAL if there is none; ENONFINITE: the
 * result has a NaN or an infinity, the memory stays as it is; EDEVICE. */
enum rxt_status rxt_session_update(struct rxt_session *s, struct rxt_error *err);
/* Absorbs a given interaction (rxt_turn_ids, rxt_system_ids or exact ids): version + 1. EINVAL:
 * none, or an id outside the vocabulary; ELIMIT: more than max_seq_len; else as
 * rxt_session_update. */
enum rxt_status rxt_session_absorb(struct rxt_session *s, const int32_t *ids, size_t n,
                                   struct rxt_error *err);
/* The memory, lent: version, hash, statistics, image. */
const struct stm *rxt_session_memory(const struct rxt_session *s);
struct lane *rxt_session_lane(struct rxt_session *s);
/* The session's memory as an image (stm.h), and back, version included: an import forgets the last
 * turn. size from rxt_session_image_bytes, else ESHAPE. Import: ECORRUPT, ENEWER; EMISMATCH for an
 * image of another model, shape or dtype; the memory is unchanged then. */
size_t rxt_session_image_bytes(const struct rxt_session *s);
enum rxt_status rxt_session_export(struct rxt_session *s, void *image, size_t size,
                                   struct rxt_error *err);
enum rxt_status rxt_session_import(struct rxt_session *s, const void *image, size_t size,
                                   struct rxt_error *err);

/* ---- files of tensors ------------------------------------------------------------------- */

/* A safetensors file of numbers to compare with, as golden folders hold them; for tools. */
struct rxt_tensors; /* opaque */
struct rxt_array {  /* lent until close; one of the two is set */
    const float *f32;
    const int32_t *i32;
    int32_t n_dim;
    int64_t dim[4];
    size_t n; /* elements */
};
/* Gives *out. EIO, EFORMAT, ENOMEM, naming the file. */
enum rxt_status rxt_tensors_open(struct rxt_tensors **out, const char *path, struct rxt_error *err);
void rxt_tensors_close(struct rxt_tensors **t); /* NULL-safe */
/* ENOTFOUND; EUNSUPPORTED if it is neither F32 nor I32 or has more than 4 dimensions. */
enum rxt_status rxt_tensors_get(const struct rxt_tensors *t, const char *name,
                                struct rxt_array *out, struct rxt_error *err);

#endif
