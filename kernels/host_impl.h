/* Weights as they come from a file: elements of any dtype, read as float32. */
#ifndef RXT_KERNELS_HOST_IMPL_H
#define RXT_KERNELS_HOST_IMPL_H

#include "kernels/backend.h"
#include "kernels/base/arena.h"

/* All n elements of v into out; zeros if v is absent (out then needs n elements all the same). */
void host_vector_read(float *out, const struct host_vector *v);
/* The same into memory cut from the arena. NULL if v is absent, while planning, or if it does not
 * fit. */
float *host_vector_cut(struct arena *a, const struct host_vector *v);
/* Gives *out, a weight and its vectors in one block, which mem_free ends. lay_out cuts the weight
 * first, then the vectors; it runs once over an arena that plans (then it gives NULL) and once to
 * fill. ENOMEM. */
enum rxt_status host_weight_create(struct weight **out,
                                   struct weight *(*lay_out)(struct arena *a, const void *desc),
                                   const void *desc);
/* Elements (row, first .. first + n) of m, through row_of or transposed. */
void host_row_read(float *out, const struct host_matrix *m, int32_t row, int32_t first, int32_t n);

#endif
