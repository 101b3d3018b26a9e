/* What the subcommands of `rxt` share: their table, the model and store they open, their output. */
#ifndef RXT_TOOLS_CLI_H
#define RXT_TOOLS_CLI_H

#include "bridge/bridge.h"
#include "tools/rxt/options.h"

#include <jansson.h>

/* One a file; argv[0] is the subcommand. They return the exit code of the program. */
int command_bench(int argc, char **argv);
int command_chat(int argc, char **argv);
int command_inspect(int argc, char **argv);
int command_keygen(int argc, char **argv);
int command_load(int argc, char **argv);
int command_recall(int argc, char **argv);
int command_remember(int argc, char **argv);
int command_session(int argc, char **argv);
int command_verify(int argc, char **argv);

extern uint64_t program_start_us; /* clock_us() when main began */

/* ---- options that all commands take ----------------------------------------------------- */

struct common_options {
    const char *model; /* directory; NULL = $RXT_MODEL, else the one folder in models/ */
    const char *dtype, *backend;
    int32_t threads, max_seq_len;
    const char *store; /* NULL = $XDG_DATA_HOME/rxt/rxt.db */
    const char *session;
    bool computes_nothing; /* set by a command: no device is opened unless --backend names it */
};
extern struct common_options common;
extern const struct option model_options[];   /* --model --dtype --threads --backend ... */
extern const struct option session_options[]; /* --store --session */

/* Prints "rxt: <sentence>" (or the text of the status) on standard error; returns 1. */
int complain(enum rxt_status st, const struct rxt_error *err);

/* Opens the model the options name. */
enum rxt_status open_model(struct rxt_model **out, struct rxt_error *err);

/* Path of the store where the options name none; makes its folder. ENOTFOUND: no HOME either. */
enum rxt_status default_store(char *out, size_t size, struct rxt_error *err);

/* What a command works with. */
struct app {
    struct rxt_model *model;
    struct bridge *bridge; /* NULL for commands without a store */
};
/* What a command does with it. A failure is complained about; else *code, 0 when called, becomes
 * the exit code of the program. */
typedef enum rxt_status (*command_body)(const struct app *a, void *arg, int *code,
                                        struct rxt_error *err);
/* Opens the model the options name and, unless cfg is NULL, a bridge over the store they name (the
 * folder of the default store is made); runs the body; closes, which waits for writes and memory
 * updates. Returns the exit code. */
int run_command(const struct bridge_config *cfg, command_body body, void *arg);

/* A copy of a session's name; ELIMIT if it is too long. */
enum rxt_status session_name(char out[BRIDGE_NAME_MAX], const char *name, struct rxt_error *err);
/* A request of the tenant "default" for this session. ELIMIT: its name. */
enum rxt_status session_request(struct bridge_request *r, enum bridge_verb verb,
                                const char *session, struct rxt_error *err);
/* For bridge_call with a struct bridge_session_info as user: keeps what the events say of it. */
void keep_info(void *user, const struct bridge_event *e);

/* ---- output ------------------------------------------------------------------------------ */

/* One object a line on standard output, flushed; frees it. */
void print_json(json_t *object);
json_t *json_ids(const int32_t *ids, int32_t n);
json_t *json_hash(const uint8_t hash[16]);
/* Text that decodes these ids, special tokens left out; free() it. NULL when out of memory. */
char *text_of_ids(const struct rxt_model *m, const int32_t *ids, int32_t n);

/* A bar on standard error for what takes longer than a second; only on a terminal. */
struct progress {
    const char *what;
    uint64_t start_us, shown_us;
    bool on;
};
void progress_start(struct progress *p, const char *what);
void progress_step(struct progress *p, size_t done, size_t all);
void progress_end(struct progress *p);

#endif
