/* Status codes of every door, their texts, and the two control-flow macros of the project.
 *
 * Every function that can fail returns `enum rxt_status`; values leave by out-parameters. The
 * attribute stands on the type, so an unchecked call is a compile error everywhere. The code says
 * what kind of thing went wrong; the sentence for a human (what, where, which limit, what to do)
 * goes into a `struct rxt_error`. `assert` is for our bugs, a status is for the world. */
#ifndef RXT_BASE_STATUS_H
#define RXT_BASE_STATUS_H

/* Code, stable number (wire and exit codes build on it; never reuse one), text. */
#define RXT_STATUS_TABLE(X)                                                    \
    X(RXT_OK, 0, "ok")                                                         \
    X(RXT_ENOMEM, 1, "out of memory")                                          \
    X(RXT_EINVAL, 2, "invalid argument")                                       \
    X(RXT_ESHAPE, 3, "shape or dtype does not fit")                            \
    X(RXT_EDEVICE, 4, "device failed")                                         \
    X(RXT_EIO, 5, "input/output error")                                        \
    X(RXT_EFULL, 6, "disk or storage limit full")                              \
    X(RXT_EFORMAT, 7, "malformed data")                                        \
    X(RXT_EUNSUPPORTED, 8, "not supported")                                    \
    X(RXT_ENOTFOUND, 9, "not found")                                           \
    X(RXT_EEXIST, 10, "already exists")                                        \
    X(RXT_ESTALE, 11, "version is not current")                                \
    X(RXT_ECORRUPT, 12, "stored data is damaged")                              \
    X(RXT_EMISMATCH, 13, "belongs to another model, tenant, session or shape") \
    X(RXT_ENONFINITE, 14, "result is not finite")                              \
    X(RXT_EBUSY, 15, "busy")                                                   \
    X(RXT_ECANCELLED, 16, "cancelled")                                         \
    X(RXT_ELIMIT, 17, "over a limit")                                          \
    X(RXT_EUTF8, 18, "not valid UTF-8")                                        \
    X(RXT_ENEWER, 19, "written by a newer release")                            \
    X(RXT_EFENCED, 20, "lease lost or held by another process")                \
    X(RXT_EHELD, 21, "session is held: writes refused until repair")           \
    X(RXT_EEXPIRED, 22, "expired")                                             \
    X(RXT_EDEADLINE, 23, "deadline passed")

enum [[nodiscard]] rxt_status{
#define RXT_STATUS_ENUM(code, number, text) code = number,
    RXT_STATUS_TABLE(RXT_STATUS_ENUM)
#undef RXT_STATUS_ENUM
};

/* Static texts, never NULL, also for numbers outside the table. */
const char *rxt_status_name(enum rxt_status st); /* "RXT_ENOMEM" */
const char *rxt_status_text(enum rxt_status st); /* "out of memory" */

/* The sentence for a human that goes with a status. The caller owns it; "" means none. */
struct rxt_error {
    char text[256];
};

/* Writes the sentence (cut at 255 bytes on a code point border) and returns st, so that
 * `return rxt_fail(err, RXT_ESHAPE, "...")` reads as one step. err may be NULL. */
enum rxt_status rxt_fail(struct rxt_error *err, enum rxt_status st, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The static analyzer does not see into rxt_fail; this tells it that st comes back, so that it does
 * not follow failures into paths of success. */
#ifdef __clang_analyzer__
#define rxt_fail(err, st, ...) ((void)rxt_fail(err, st, __VA_ARGS__), (st))
#endif

/* Return the status of a failed call at once. */
#define TRY(call)                         \
    do {                                  \
        enum rxt_status try_st_ = (call); \
        if (try_st_ != RXT_OK)            \
            return try_st_;               \
    } while (0)

/* Keep the status of a failed call in `st` (a local of the function) and go to the label. */
#define TRY_OR(label, call) \
    do {                    \
        st = (call);        \
        if (st != RXT_OK)   \
            goto label;     \
    } while (0)

#endif
