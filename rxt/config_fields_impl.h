/* Typed access to the fields of a JSON object. The first failure sticks: later reads give their
 * default, and the caller asks once at the end. */
#ifndef RXT_CONFIG_FIELDS_IMPL_H
#define RXT_CONFIG_FIELDS_IMPL_H

#include "kernels/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct json_t json_t; /* as jansson.h has it */

/* The tree of n bytes, duplicate names refused; give it back with json_decref. what names the file
 * in messages. EFORMAT. */
enum rxt_status config_json(json_t **out, const char *text, size_t n, const char *what,
                            struct rxt_error *err);

struct fields {
    const json_t *object;
    const char *where; /* "decoder_config" */
    struct rxt_error *err;
    enum rxt_status st;
};

/* A row of a table that ends in {NULL, 0}. */
struct field_word {
    const char *word;
    int value;
};

/* True if the field is there and not null: null means the default everywhere. */
bool field_has(const struct fields *f, const char *name);
/* A whole number in [lo, hi]. EFORMAT, EINVAL. */
int32_t field_int(struct fields *f, const char *name, int32_t otherwise, int32_t lo, int32_t hi);
bool field_bool(struct fields *f, const char *name, bool otherwise);
double field_real(struct fields *f, const char *name, double otherwise, double lo, double hi);
/* One of the words. EUNSUPPORTED naming the value. */
int field_word(struct fields *f, const char *name, int otherwise, const struct field_word *table);
/* A list of words; fills at most cap values and returns their number. */
int32_t field_words(struct fields *f, const char *name, const struct field_word *table, int *out,
                    int32_t cap);
/* A string of less than size bytes. */
void field_text(struct fields *f, const char *name, char *out, size_t size);
/* An object, or NULL if it is absent. */
const json_t *field_object(struct fields *f, const char *name);
/* Fails unless the field is there. */
void field_require(struct fields *f, const char *name);
/* Fails: "where: " and the sentence. Keeps an earlier failure. */
void field_fail(struct fields *f, enum rxt_status st, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
