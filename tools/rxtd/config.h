/* The configuration of rxtd. One name for each value, in three places, the later winning:
 * the file (INI, `name = value`), the environment (RXTD_NAME), the command line (--name value). */
#ifndef RXT_TOOLS_RXTD_CONFIG_H
#define RXT_TOOLS_RXTD_CONFIG_H

#include "bridge/server.h"

struct rxtd_config {
    bool check_only; /* --check-config */
    const char *model;
    bool null_model; /* --null-model: none, and no store */
    uint64_t null_step_us;
    struct rxt_model_options model_options;
    struct bridge_config bridge;
    struct server_config server;
};

/* -1 to go on, else the exit code of the program, after a message. The texts live as long as the
 * program. */
int rxtd_config_read(struct rxtd_config *c, int argc, char **argv);

#endif
