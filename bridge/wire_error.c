#include "bridge/wire_impl.h"

struct error_row {
    enum wire_error code;
    const char *name;
    bool retryable;
};
static const struct error_row errors[] = {
#define ERROR_ROW(name_, number, text, retry) {number, text, retry},
    WIRE_ERROR_TABLE(ERROR_ROW)
#undef ERROR_ROW
};

static const struct error_row *find_error(enum wire_error e)
{
    size_t n = sizeof errors / sizeof *errors;
    for (size_t i = 0; i < n; i++)
        if (errors[i].code == e)
            return &errors[i];
    return &errors[n - 1]; /* internal */
}

const char *wire_error_name(enum wire_error e)
{
    return find_error(e)->name;
}

bool wire_error_retryable(enum wire_error e)
{
    return find_error(e)->retryable;
}

enum wire_error wire_error_of(enum rxt_status st)
{
    switch (st) {
    case RXT_OK:
    case RXT_ECANCELLED:
        return WIRE_OK;
    case RXT_ENOMEM:
        return WIRE_E_NO_MEMORY;
    case RXT_EINVAL:
        return WIRE_E_BAD_VALUE;
    case RXT_EDEVICE:
        return WIRE_E_DEVICE;
    case RXT_EIO:
        return WIRE_E_IO;
    case RXT_EFULL:
        return WIRE_E_DISK_FULL;
    case RXT_EFORMAT:
        return WIRE_E_FORMAT;
    case RXT_EUNSUPPORTED:
        return WIRE_E_UNSUPPORTED;
    case RXT_ENOTFOUND:
        return WIRE_E_NO_SESSION;
    case RXT_EEXIST:
        return WIRE_E_EXISTS;
    case RXT_ESTALE:
        return WIRE_E_STALE;
    case RXT_ECORRUPT:
        return WIRE_E_CORRUPT;
    case RXT_EMISMATCH:
        return WIRE_E_MISMATCH;
    case RXT_ENONFINITE:
        return WIRE_E_NOT_FINITE;
    case RXT_EBUSY:
        return WIRE_E_BUSY;
    case RXT_ELIMIT:
        return WIRE_E_LIMIT;
    case RXT_EUTF8:
        return WIRE_E_BAD_UTF8;
    case RXT_ENEWER:
        return WIRE_E_NEWER;
    case RXT_EFENCED:
        return WIRE_E_FENCED;
    case RXT_EDEADLINE:
        return WIRE_E_DEADLINE;
    case RXT_EHELD:
        return WIRE_E_HELD;
    case RXT_EEXPIRED:
        return WIRE_E_EXPIRED;
    case RXT_ESHAPE:
        break;
    }
    return WIRE_E_INTERNAL;
}
