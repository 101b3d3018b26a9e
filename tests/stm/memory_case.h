/* A small memory attention with random weights, twice: as stm/ takes it and as tests/ref/ does. */
#ifndef RXT_TESTS_STM_MEMORY_CASE_H
#define RXT_TESTS_STM_MEMORY_CASE_H

#include "stm/stm.h"
#include "tests/ref/memory_attention.h"
#include "tests/stm/fixture.h"

enum { CASE_LAYERS = 4, CASE_SLOTS = 10, CASE_DIM = 32, CASE_TOKENS = 24, CASE_GROUPS = 2 };
enum { CASE_VALUES = CASE_LAYERS * CASE_SLOTS * CASE_DIM };

struct case_kind {
    enum stm_variant variant;
    enum norm_kind norm;
    bool scale_by_slot; /* of NORM_MIX_SLOT */
    enum gate_kind gate;
    bool tanh, per_slot, linear_status;
    float g; /* of STATIC and ELEMENTWISE, in every slot; 0 = at random */
    bool no_rope;
};

struct memory_case {
    struct stm_config cfg; /* DTYPE_F32; nothing stored */
    struct stm_weights weights;
    struct ref_memory_attention ref;

    struct backend *be;
    struct stm_layer_weights layer[CASE_LAYERS];
    struct ref_memory_layer ref_layer[CASE_LAYERS];
    struct weight *owned[256];
    float *numbers[1024];
    int n_owned, n_numbers;
};

void case_open(struct memory_case *c, struct backend *be, const struct case_kind *kind);
void case_close(struct memory_case *c);

/* A lane for the updates of at most n_memory memories, no larger than stm_lane_limits asks. */
struct lane *case_lane(const struct memory_case *c, int n_memory);

/* n values of mean 0 and deviation `scale`, a function of `number`; free() them. */
float *case_numbers(int n, int number, float scale);

/* A memory with these values [L,S,D], at version 0. */
struct stm *case_memory(const struct memory_case *c, struct lane *ln, enum dtype dtype,
                        const float *values);
/* Its values, or those of a spare, as they are stored; free() them. */
void *case_stored(struct lane *ln, const struct stm *m);
void *case_spare_stored(struct lane *ln, const struct stm_spare *s);

/* ED of n memories packed for stm_update: memory i has rows[i] rows, its values are
 * ed[i] [L, rows[i], D]. */
struct case_ed {
    struct ragged rows;
    struct tensor ed[CASE_LAYERS];
    int32_t offset[17];
    struct backend *be;
};
void case_ed_open(struct case_ed *e, struct lane *ln, int n, const int *rows, float *const *ed);
void case_ed_close(struct case_ed *e);

/* Values and ED of up to 16 memories, the same in every test. */
struct inputs {
    int rows[16];
    float *values[16], *ed[16];
    enum dtype dtype[16];
};
void inputs_open(struct inputs *in);
void inputs_close(struct inputs *in);

/* Everything a run needs but weights: the first n memories of the inputs, at version 0. */
struct batch {
    struct memory_case *c;
    struct lane *ln;
    struct stm_updater *updater;
    struct stm_pool *pool[2]; /* by dtype: F32, BF16 */
    struct case_ed ed;
    int n;
    struct stm *m[16];
    struct stm_spare *spare[16];
    bool bad[16];
};
void batch_open(struct batch *b, struct memory_case *c, const struct inputs *in, int first, int n);
enum rxt_status batch_run(struct batch *b);
void batch_close(struct batch *b);

#endif
