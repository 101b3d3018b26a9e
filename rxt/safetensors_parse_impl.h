/* The two texts of the format: the header of a file and the index of a sharded checkpoint. */
#ifndef RXT_SAFETENSORS_PARSE_IMPL_H
#define RXT_SAFETENSORS_PARSE_IMPL_H

#include "rxt/safetensors_impl.h"

/* A growing list of tensors. */
struct st_list {
    struct st_tensor *tensor;
    int32_t n, cap;
};

/* Parses the header of one file and appends its tensors with data and copied unset; names are
 * terminated in place, so `text` (n bytes and one more, which is overwritten) must outlive the
 * list. data_bytes: what the file holds behind the header; the tensors must cover it without hole
 * or overlap. file_name is for messages. On failure the list may have grown. */
enum rxt_status st_header_parse(struct st_list *list, char *text, size_t n, uint64_t data_bytes,
                                int32_t file, const char *file_name, struct rxt_error *err);

/* One row of an index. */
struct st_index_row {
    char *name; /* of the tensor */
    char *file; /* of the shard: a plain name that ends in .safetensors */
};
struct st_index {
    struct st_index_row *row; /* names are distinct, in no order */
    int32_t n;
};
/* {"weight_map": {tensor: shard, ...}, "metadata": anything}. Gives *out. EFORMAT, ELIMIT, ENOMEM.
 */
enum rxt_status st_index_parse(struct st_index *out, const char *text, size_t n,
                               struct rxt_error *err);
void st_index_free(struct st_index *index); /* NULL-safe inside */

#endif
