/* Command lines of `rxt`: options as a table, so that parsing and --help say the same. */
#ifndef RXT_TOOLS_OPTIONS_H
#define RXT_TOOLS_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum option_kind { OPTION_FLAG, OPTION_TEXT, OPTION_INT, OPTION_SEED, OPTION_REAL };

struct option {
    const char *name; /* without the dashes; NULL ends a table */
    enum option_kind kind;
    void *value; /* bool, const char *, int32_t, uint64_t or double; keeps its default if absent */
    const char *arg; /* name of the value in the help; NULL for flags */
    const char *help;
};

/* A table that goes on in another one (the common options). */
#define OPTION_MORE(table)                   \
    {                                        \
        .name = "", .value = (void *)(table) \
    }

struct command_line {
    const char *usage; /* "rxt chat [--session NAME] ..." */
    const char *about; /* what it does, a paragraph */
    const struct option *options;
    int min_args, max_args;
    const char *arg[4]; /* out: what is no option */
    int n_arg;
};

/* Gives an option its value from a text, as `--name text` does; a flag takes true or false. False:
 * no such option (*known false) or not a value for it. */
bool option_set(const struct option *table, const char *name, const char *text, bool *known);

#define EXIT_USAGE 2
/* Parses argv[1..]. Returns -1 to go on, else the exit code: 0 after --help, EXIT_USAGE after a
 * message on standard error that names the argument. */
int command_line_parse(struct command_line *c, int argc, char **argv);

#endif
