/* The versions of a session's memory: any of them, out of an image or rebuilt from the journal, and
 * one after another with what each turn did. */
#ifndef RXT_TOOLS_INSPECT_HISTORY_H
#define RXT_TOOLS_INSPECT_HISTORY_H

#include "rxt/rxt.h"
#include "store/store.h"

struct history {
    struct store *store;
    struct store_session session;
    struct stm_config cfg; /* shape and dtype of its memory */
    size_t n_slot;         /* of all layers: L * S */
    bool from_base;        /* rebuild from the oldest version on, whatever images there are */

    /* NULL without the model: then only versions that have an image can be had. */
    const struct rxt_model *model;
    struct rxt_worker *worker;
    struct stm_pool *pool;
    struct stm *memory,
        *other;            /* other: what an answer read, where that is not the memory before */
    struct rxt_read *read; /* for history_answer; made when first needed */
    struct rxt_slot *slot;
};

/* Shape and dtype of a session's memory from its row, which may be hostile: ECORRUPT if there is no
 * such memory. */
enum rxt_status history_shape(struct stm_config *out, const struct store_session *x,
                              struct rxt_error *err);

/* Gives *h for closing, also when it fails. The model is lent and may be NULL; EMISMATCH if it is
 * not the session's. ENOTFOUND: no such session. */
enum rxt_status history_open(struct history *h, struct store *s, const char *tenant,
                             const char *name, const struct rxt_model *m, struct rxt_error *err);
void history_close(struct history *h);

/* A copy of the row that made a version, whose ids last until free(). texts are gone. */
enum rxt_status history_row(struct history *h, uint64_t version, struct store_turn *row,
                            int32_t **ids, struct rxt_error *err);

/* Puts a version into h->memory. EUNSUPPORTED without the model. */
enum rxt_status history_load(struct history *h, uint64_t version, struct rxt_error *err);
/* From the version before into this one: what its row says. probe [L*S] is filled for rows that are
 * updates, zeroed for others; NULL = not asked for. */
enum rxt_status history_step(struct history *h, uint64_t version, struct stm_slot_probe *probe,
                             struct rxt_error *err);
/* The values [L,S,D] of a version in the session's dtype: its image if it has one, else rebuilt. */
enum rxt_status history_values(struct history *h, uint64_t version, void *values,
                               struct rxt_error *err);
/* Those in h->memory now. */
enum rxt_status history_memory(struct history *h, void *values);

/* Answers the row's prompt again, token by token, from the memory it read; h->memory is the version
 * before the row. *wrong = index in ids of the first token that differs, -1 = none. */
enum rxt_status history_answer(struct history *h, const struct store_turn *row, int32_t *wrong,
                               struct rxt_error *err);

#endif
