/* rxt chat --connect: the conversation runs in a server. */
#ifndef RXT_TOOLS_CONNECT_H
#define RXT_TOOLS_CONNECT_H

#include "bridge/client.h"

#include <signal.h>

struct connect_options {
    const char *endpoint, *server_key, *secret_key_file;
    const char *session, *script; /* script NULL = a terminal, or standard input as it comes */
    bool json, keep_going;
    struct client_request turn; /* of every question, which is put in */
};

/* Talks until the script or the input ends; the exit code of the program. *interrupted: Ctrl-C,
 * which ends the answer. */
int chat_connected(const struct connect_options *o, volatile sig_atomic_t *interrupted);

#endif
