/* A chat in a terminal: lines, their history, and the commands that begin with a slash. Whoever
 * answers, in this process or over a connection, gives two functions. */
#ifndef RXT_TOOLS_TERMINAL_H
#define RXT_TOOLS_TERMINAL_H

#include "bridge/bridge.h"

#include <signal.h>

struct chat_seen { /* of the session, and of its last turn; 0 = there was none */
    uint64_t version, n_turn;
    uint8_t stm_hash[16];
    uint64_t n_query, n_answer;
    uint64_t first_token_us, answer_us, journal_us, memory_us;
};

struct chat_terminal {
    const char *session;
    volatile sig_atomic_t *interrupted; /* Ctrl-C */
    void *arg;                          /* of both */
    /* Both complain where something is refused, and give false. Says the answer as it comes. */
    bool (*turn)(void *arg, const char *query, struct chat_seen *seen);
    /* REWIND to the version, RESET, FORK of the newest version to `to`, or GET. */
    bool (*verb)(void *arg, enum bridge_verb verb, uint64_t version, const char *to,
                 struct chat_seen *seen);
};

/* Talks until the input ends or /quit. greeting: before the first line. ENOMEM. */
enum rxt_status chat_talk(const struct chat_terminal *t, const struct chat_seen *start,
                          const char *greeting);

#endif
