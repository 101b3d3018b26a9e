/* What the files of rxt/ share: the model behind its handle, and the worker's buffers. */
#ifndef RXT_RXT_IMPL_H
#define RXT_RXT_IMPL_H

#include "kernels/base/arena.h"
#include "rxt/rxt.h"
#include "rxt/weights_impl.h"

struct tokenizer;

struct rxt_model {
    struct rxt_info info;
    struct backend *be;
    struct checkpoint *ck; /* mapped files: the embedding and the stored memory lie in them */
    const struct rxt_config *cfg; /* in ck */
    struct model_weights w;
    struct tokenizer *tokenizer; /* NULL: none in the folder */
};

struct rxt_read {
    const struct rxt_model *m;
    struct mem_kv *kv;
    uint64_t version;
};

struct rxt_slot {
    const struct rxt_model *m;
    struct kv *kv;
};

/* Buffers are cut once, at create, for max_rows; a call makes dense views of the rows it has. */
struct rxt_worker {
    const struct rxt_model *m;
    struct lane *ln;
    int32_t max_rows, max_seq;
    bool answers, memorizes; /* what it was made for */
    struct stm_updater *updater;
    void *block;            /* backend memory of: */
    struct tensor x;        /* [R,D]: the one residual stream of a forward */
    void *projected;        /* [R, widest projection]: q, k, v and gate input of one attention */
    void *context;          /* [R, widest Ho*hd]: its result before the output projection */
    struct tensor logits;   /* [max_seq, V] f32 */
    struct tensor *ed;      /* [L] of [R,D]: residual stream behind each encoder layer */
    struct arena host;      /* host memory of ed and: */
    struct tensor *ed_view; /* [L]: the rows of ed that the last call filled */
    int32_t *row;           /* [max_seq]: rows that the head reads */
    struct kv **kv;         /* [max_seq]: of the sequences of a batch */
    const struct mem_kv **mem;
    int32_t n_logits;         /* rows of logits that hold something */
    struct read_probe *probe; /* NULL but inside rxt_probe */
};

struct kv_config model_kv_config(const struct rxt_model *m);
struct mem_kv_config model_mem_kv_config(const struct rxt_model *m);

/* Columns of the projection of one attention: q, k and v if with_kv, gate input if gated; and of
 * its context, Ho*hd. */
int32_t attention_width(const struct heads *h, bool with_kv);
int32_t attention_out(const struct heads *h);

/* [rows, cols] dense over memory of the activations' dtype. */
struct tensor worker_view(const struct rxt_worker *w, void *data, int32_t rows, int32_t cols);
/* ESHAPE unless rows and ids fit the worker and the model; see rxt_forward. */
enum rxt_status worker_check(const struct rxt_worker *w, const struct ragged *rows,
                             const int32_t *ids);

/* x += FF(norm3(x)), dense or with experts: the end of every layer of decoder and encoder. */
enum rxt_status layer_feed_forward(struct rxt_worker *w, struct tensor x,
                                   const struct layer_weights *l);

/* Looks on at memory cross-attention of stateful layer `index`, whose queries q are about to be
 * used (probe.c). */
enum rxt_status read_probe_layer(struct read_probe *p, struct tensor q,
                                 const struct layer_weights *l, const struct ragged *rows,
                                 int32_t index);

#endif
