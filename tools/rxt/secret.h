/* The file of a CURVE secret key, as `rxt keygen` writes it. */
#ifndef RXT_TOOLS_SECRET_H
#define RXT_TOOLS_SECRET_H

#include "bridge/server.h"

/* Reads the key of SERVER_KEY_TEXT characters. EIO: no such file; EINVAL: not a key, or not a file
 * that its owner alone may read. */
enum rxt_status secret_read(char key[SERVER_KEY_TEXT + 1], const char *path, struct rxt_error *err);

#endif
