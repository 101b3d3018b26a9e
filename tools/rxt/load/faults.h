/* A server that is started, killed, paused and refused its disk as a plan says, while a run goes
 * on.
 *
 * A plan is lines "SECONDS ACTION [NUMBER]", in any order; # begins a comment:
 *   10 kill          SIGKILL, and started again
 *   20 stop          SIGTERM: it drains and ends, and is started again
 *   30 pause 2       stands still for 2 s
 *   40 disk_full 3   for 3 s, "full" stands in the file of --disk-switch (tests/conformance/disk.c)
 *   50 reconnect     all our connections are closed and made anew
 *   60 storm 50      so many more clients connect and go at once; at most 64 */
#ifndef RXT_TOOLS_LOAD_FAULTS_H
#define RXT_TOOLS_LOAD_FAULTS_H

#include "bridge/client_many.h"

#include <stdatomic.h>

enum fault_action {
    FAULT_KILL,
    FAULT_STOP,
    FAULT_PAUSE,
    FAULT_DISK_FULL,
    FAULT_RECONNECT,
    FAULT_STORM,
    FAULT_ACTIONS
};
struct faults_config {
    const char *plan;        /* file */
    const char *command;     /* starts the server; for sh, which exec puts it in the place of */
    const char *log;         /* what it says goes there; NULL = nowhere */
    const char *disk_switch; /* NULL = the plan has no disk_full */
    struct client_config server;
    uint32_t n_connection; /* ours */
};

struct faults; /* opaque */
/* Gives *f: reads the plan, starts the server. EFORMAT naming the line; EINVAL; EIO. */
enum rxt_status faults_start(struct faults **f, const struct faults_config *cfg,
                             struct rxt_error *err);
/* Does what is due at this time of the run. */
enum rxt_status faults_tick(struct faults *f, uint64_t run_us, struct client_many *c,
                            struct rxt_error *err);
/* Ends what lasts: the server runs, if need be again, and its disk has room. EIO: it was stopped
 * and does not end, or does not start. */
enum rxt_status faults_settle(struct faults *f, struct rxt_error *err);
const atomic_int *faults_pid(const struct faults *f); /* of the server; 0 = it does not run */
uint32_t faults_count(const struct faults *f, enum fault_action a); /* that were done */
uint32_t faults_deaths(const struct faults *f);                     /* that nobody asked for */
const char *fault_name(enum fault_action a);
void faults_stop(struct faults **f); /* SIGTERM; NULL-safe */

#endif
