/* Short-term memory of one session: S slots of D values in each of L layers, read at every token by
 * memory cross-attention, replaced once a turn by memory attention and a residual gate.
 *
 * Shapes: STM [L,S,D] in the session's dtype, encoded data ED [L,T,D] in the backend's activation
 * dtype. A memory has one owner at a time and is not thread-safe, save that several threads may
 * read one that nobody changes (stm_update only reads it; stm_commit, stm_import and stm_restart
 * change it); the pool of spares is thread-safe.
 *
 * Life of an update: stm_spare_take -> stm_update writes the spare, readers still see the published
 * buffer -> stm_commit swaps the two -> stm_spare_give. Memory does not know who reads it.
 *
 * Functions that fill or read values take a lane: their copies run in its order, and they wait. */
#ifndef RXT_STM_H
#define RXT_STM_H

#include "kernels/backend.h"

struct stm;         /* opaque: one published buffer and its version */
struct stm_spare;   /* opaque: a second buffer, lent by a pool for one update */
struct stm_pool;    /* opaque: n spares of one shape */
struct stm_updater; /* opaque: a lane's activations for stm_update */

/* ---- what a memory is ------------------------------------------------------------------- */

enum stm_init { STM_NOISE, STM_CHECKPOINT, STM_ZEROS }; /* spec 8b */

struct stm_config {
    int32_t n_layer, n_slot, embed_dim;
    enum dtype dtype;   /* DTYPE_F32 or DTYPE_BF16: of the stored values */
    const void *stored; /* [L,S,D] host memory of the checkpoint, lent by rxt/ for as long as the
                         * memory or its spares live; NULL if there is none */
    enum dtype stored_dtype;
};
/* Of the values: L*S*D*dtype. 0 for dims or a dtype that no memory can have. */
size_t stm_bytes(const struct stm_config *cfg);

enum stm_variant { /* spec 2.7 */
                   STM_SIMPLE,
                   STM_SELF,
                   STM_INTERLAYER,
                   STM_SELF_INTERLAYER,
                   STM_GROUPED_SELF_INTERLAYER,
};
/* The interlayer kinds: each layer attends to a mean over layers. */
bool stm_variant_has_mean(enum stm_variant v);

/* One attention of memory attention: K and V read the same input and are one matrix [2*Hk*hd, D].
 */
struct stm_attention {
    struct heads heads;
    struct weight *q, *kv, *out;
};
struct stm_layer_weights {
    struct stm_attention main, mean, self; /* mean: interlayer kinds; self: STM_SELF */
    struct weight *norm_input;             /* RMSNorm_in over ED */
    struct weight *norm_mem, *norm_mean, *norm_self;
    struct weight *gate, *gate_mean, *gate_interlayer, *gate_self;
};
struct stm_weights { /* plain; filled and lent by rxt/ for as long as it is used */
    enum stm_variant variant;
    int32_t n_layer,
        n_group;           /* n_group: 1, or the groups of the grouped variant; divides n_layer */
    struct weight *norm_m; /* of the mean over layers; interlayer kinds */
    struct weight *rope;   /* on the keys of `main`; NULL without */
    struct stm_layer_weights *layer;
};

/* ---- create, read ----------------------------------------------------------------------- */

/* Gives *out at version 0, in memory of ln's backend: the slots as init says (STM_NOISE: N(0,1)
 * from seed, drawn in float32, design 5; STM_CHECKPOINT: cfg->stored converted to cfg->dtype).
 * ENOMEM; ESHAPE; EINVAL if STM_CHECKPOINT finds no stored memory; ENONFINITE if it holds a NaN or
 * an infinity; EDEVICE. Source: spec 1.4, 8b. */
enum rxt_status stm_create(struct stm **out, struct lane *ln, const struct stm_config *cfg,
                           enum stm_init init, uint64_t seed);
/* Gives *out with the content and version of m: the resident part of a fork. ENOMEM, EDEVICE. */
enum rxt_status stm_clone(struct stm **out, struct lane *ln, const struct stm *m);
void stm_destroy(struct stm **m); /* NULL-safe; sets *m to NULL */

uint64_t stm_version(const struct stm *m); /* commits so far; never decreases */
const struct stm_config *stm_config_of(const struct stm *m);
struct tensor stm_read(const struct stm *m, int layer); /* [S,D], lent until stm_commit */

/* XXH3-128 of the values [L,S,D] in the stored dtype, little endian, as 16 big-endian ("canonical")
 * bytes: the same number for the same memory everywhere. ln orders it behind running updates. */
enum rxt_status stm_hash(const struct stm *m, struct lane *ln, uint8_t hash[16]);

/* ---- update ----------------------------------------------------------------------------- */

/* Gives *out: n spares shared by the memories of one config. ESHAPE: no such config, or n below 1;
 * ENOMEM. */
enum rxt_status stm_pool_create(struct stm_pool **out, struct backend *be,
                                const struct stm_config *cfg, int n);
void stm_pool_destroy(struct stm_pool **p);           /* NULL-safe; every spare must be back */
struct stm_spare *stm_spare_take(struct stm_pool *p); /* NULL: all are lent. Thread-safe */
void stm_spare_give(struct stm_pool *p, struct stm_spare **s); /* NULL-safe. Thread-safe */

/* What the lane of an updater must have been created with (the caller may raise it further). */
void stm_lane_limits(const struct stm_config *cfg, const struct stm_weights *w, int n_memory,
                     int n_token, struct lane_limits *out);
/* Gives *out: activations for updates of at most n_memory memories and n_token rows of ED at once,
 * on ln: the one owner of both is the thread that updates. cfg: dims (dtype is each memory's own);
 * w stays lent. ESHAPE if cfg and w disagree; ENOMEM. */
enum rxt_status stm_updater_create(struct stm_updater **out, struct lane *ln,
                                   const struct stm_config *cfg, const struct stm_weights *w,
                                   int n_memory, int n_token);
void stm_updater_destroy(struct stm_updater **u); /* NULL-safe */

/* Makes ED layer by layer: called once for each layer, by rising layer, on branch 0, ahead of what
 * reads ed[layer]. An error ends the update. */
struct stm_feed {
    enum rxt_status (*layer)(struct stm_feed *f, int layer);
};
/* For each of n memories: spare[i] = memory attention of m[i] over its rows of ED, through the
 * gates; readers still see the published buffer. ed: one tensor [sum T, D] a layer, rows as in
 * `rows`, at least one for each memory; start NULL (every interaction begins at position 0). The
 * spares are distinct and have the dtype of their memory; memories of both dtypes may meet in one
 * call. Each result is the same bits as alone. Source: spec 2.7; the values are rounded to the
 * memory's dtype once, at the end. ENONFINITE: at least one result has a NaN or an infinity; bad[i]
 * says which (bad may be NULL), the others are good. ESHAPE, EDEVICE: no result is good. Waits for
 * the lane; allocates nothing. feed (NULL: ED is there, or under way on branch 0 of a step that is
 * open on the lane) makes ED; on a lane with branches what does not need a layer of it yet runs
 * beside. */
enum rxt_status stm_update(struct stm_updater *u, struct stm *const m[],
                           struct stm_spare *const spare[], int n, const struct tensor *ed,
                           const struct ragged *rows, struct stm_feed *feed, bool *bad);

/* Publishes the spare as version base + 1 if the version is base; the old buffer becomes the
 * spare's, which is then empty. ESTALE if the version is another (S4); ESHAPE; ENONFINITE for a
 * spare whose update was not finite; EINVAL for an empty one. On failure nothing changes. */
enum rxt_status stm_commit(struct stm *m, struct stm_spare *spare, uint64_t base);

/* Fills a spare with an initial memory (reset; statuses as in stm_create), or with values in its
 * dtype (rewind: those of an image, which stm_image_parse found finite; ESHAPE for another size,
 * EDEVICE). After a failure the spare is empty. */
enum rxt_status stm_spare_init(struct stm_spare *spare, struct lane *ln, enum stm_init init,
                               uint64_t seed);
enum rxt_status stm_spare_load(struct stm_spare *spare, struct lane *ln, const void *values,
                               size_t bytes);

/* ---- image: one version as bytes -------------------------------------------------------- */

#define STM_OWNER_MAX 128 /* bytes of a tenant or session name in an image, zero included */
#define STM_CLASS_MAX 32  /* bytes of a bit class name, zero included */

/* What an image says of itself; checked against what the reader expects. */
struct stm_image_info {
    uint64_t version;
    int32_t n_layer, n_slot, embed_dim;
    enum dtype dtype;
    char bit_class[STM_CLASS_MAX];
    uint8_t model_hash[16];
    char tenant[STM_OWNER_MAX], session[STM_OWNER_MAX];
    uint8_t values_hash[16]; /* stm_hash; written and checked by the functions below */
};

/* Bytes of an image of this config: header and values. Layout: stm/image.c. */
size_t stm_image_bytes(const struct stm_config *cfg);
/* Writes an image of the published version. info gives bit_class, model_hash, tenant and session
 * (each terminated), the rest is taken from m and filled in. ESHAPE if size != stm_image_bytes;
 * EINVAL for a name without a terminator; EDEVICE. */
enum rxt_status stm_export(const struct stm *m, struct lane *ln, struct stm_image_info *info,
                           void *image, size_t size);
/* Reads the header and checks everything that needs no memory: magic, format, sizes, hash of
 * header and values, and that every value is finite. ECORRUPT, ENEWER (format), with the reason in
 * err. values may be NULL; else *values and *values_bytes point into image, of any alignment. On
 * failure *info is not to be used. */
enum rxt_status stm_image_parse(const void *image, size_t size, struct stm_image_info *info,
                                const void **values, size_t *values_bytes, struct rxt_error *err);
/* Compares with what is expected; EMISMATCH naming the first field that differs, in the order
 * model, tenant, session, shape, dtype, version. Not compared: a bit class that differs is no
 * mismatch (replay under another class is allowed and reported by the caller), and values_hash. */
enum rxt_status stm_image_expect(const struct stm_image_info *got,
                                 const struct stm_image_info *want, struct rxt_error *err);
/* Puts values in m's dtype (finite: stm_image_parse) and a version into m: page-in, the start of a
 * replay. ESHAPE: another size; EDEVICE: the content is undefined. */
enum rxt_status stm_import(struct stm *m, struct lane *ln, uint64_t version, const void *values,
                           size_t bytes);
/* Puts the initial memory of init and seed (as in stm_create) into m as this version: the start of
 * a replay from a version that has no image. EINVAL, ENONFINITE: m is unchanged; EDEVICE: the
 * content is undefined. */
enum rxt_status stm_restart(struct stm *m, struct lane *ln, uint64_t version, enum stm_init init,
                            uint64_t seed);

/* ---- look into it ----------------------------------------------------------------------- */

/* Statistics of one slot. */
struct stm_slot_stat {
    float rms, max_abs, mean;
};
/* stat[layer * S + slot], L*S of them. Off the hot path. EDEVICE. */
enum rxt_status stm_stats(const struct stm *m, struct lane *ln, struct stm_slot_stat *stat);

struct stm_slot_diff {
    float change; /* rms of b - a */
    float cosine; /* of a and b; 0 if one is all zero */
};
/* diff[layer * S + slot] of two memories of the shape in cfg, from the values of two images, each
 * in its own dtype and of any alignment. ESHAPE. */
enum rxt_status stm_diff(const void *a, enum dtype a_dtype, const void *b, enum dtype b_dtype,
                         const struct stm_config *cfg, struct stm_slot_diff *diff);

enum stm_gate {                /* of a layer, spec 2.7; a variant has some of them */
                STM_GATE_MAIN, /* old = X, new = what attention over ED makes of X */
                STM_GATE_MEAN, /* interlayer kinds: old = M, new = attention over the layers */
                STM_GATE_INTERLAYER, /* old = M, new = mean over layers, both normalised */
                STM_GATE_SELF,       /* old = M, new = attention of M to itself */
                STM_N_GATE,
};
struct stm_gate_probe {
    float take, keep; /* out = take * new + keep * old: g and 1 - g with the sigmoid, 1 + g and 1 -
                       * g with tanh, 1 and 0 where new replaces old. Both are 0 where the variant
                       * has no such gate, and in a slot whose old and new values cancel exactly. */
};
/* What an update did to one slot. */
struct stm_slot_probe {
    struct stm_gate_probe gate[STM_N_GATE];
    float keep;       /* what is left of the old value: keep of MAIN times that of MEAN or SELF */
    float saturation; /* of MAIN: |take - keep| / (|take| + |keep|); 1 = it only takes or only
                       * keeps, 0 = it blends evenly */
    float before, offer, after; /* rms of the old slot, of `new` at MAIN, of the new slot */
    float change, cosine;       /* of old and new slot, as in stm_diff */
};
/* stm_update of one memory, the same bits, which also tells what it did: out[layer * S + slot]. A
 * gate is one number a slot, a function of old + new alone (spec 2.7), so it is read off what it
 * makes of old' = 0, new' = old + new, and the other way round. Allocates; off the hot path.
 * Statuses as in stm_update, and ENOMEM; after ENONFINITE out tells what led to it, but before,
 * after, change and cosine, which are 0. */
enum rxt_status stm_probe(struct stm_updater *u, struct stm *m, struct stm_spare *spare,
                          const struct tensor *ed, const struct ragged *rows,
                          struct stm_slot_probe *out);

#endif
