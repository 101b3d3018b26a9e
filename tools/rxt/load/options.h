/* The command line of rxt load: what it asks for, and whether that makes sense. */
#ifndef RXT_TOOLS_LOAD_OPTIONS_H
#define RXT_TOOLS_LOAD_OPTIONS_H

#include "tools/rxt/connect.h"
#include "tools/rxt/load/outcome.h"

struct load_options { /* those that are not in the plan; NULL or 0: not asked for */
    const char *connect;
    struct connect_keys keys;
    const char *prefix, *script;
    const char *metrics, *store, *baseline;
    const char *faults, *server, *server_log, *disk_switch;
    const char *json, *csv, *png, *html, *colour;
    int32_t connections, warmup, timeout_s, width, pid;
    double rate, find_rate_s;
    struct load_limits limits;
    bool keep;
    bool even;      /* arrivals of a rate */
    bool half_rate; /* of what one session alone gets: neither a rate nor a gap was asked for */
};
/* Gives *o and the plan, without its script; texts are lent from argv. Returns -1 to go on, else
 * the exit code: 0 after --help, LOAD_ERRORS_CAME after a sentence on standard error. */
int load_options_parse(struct load_options *o, struct load_plan *p, int argc, char **argv);

#endif
