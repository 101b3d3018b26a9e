#define _GNU_SOURCE /* environ */
#include "tools/rxt/load/faults.h"

#include "kernels/base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct fault {
    double at_s, number;
    enum fault_action action;
    bool done;
};

struct faults {
    struct faults_config cfg;
    char *line; /* for sh */
    struct fault *fault;
    size_t n;
    atomic_int pid;
    bool stopping;               /* it was told to end: start it again when it has */
    uint64_t resume_us, room_us; /* of the run: when a pause, a full disk ends; 0 = none */
    uint32_t count[FAULT_ACTIONS], deaths;
    pthread_t storm;
    bool storms;
    uint32_t storm_clients;
};

static const char *const name_of[FAULT_ACTIONS] = {"kill",      "stop",      "pause",
                                                   "disk_full", "reconnect", "storm"};

const char *fault_name(enum fault_action a)
{
    return name_of[a];
}

/* ---- the plan ----------------------------------------------------------------------------- */

/* False: no line of a plan. An empty one and a comment have action FAULT_ACTIONS. */
static bool parse_line(char *line, struct fault *f)
{
    char *rest = NULL, *word, *number, *save = NULL;
    line[strcspn(line, "#\r\n")] = '\0';
    *f = (struct fault){.action = FAULT_ACTIONS};
    word = strtok_r(line, " \t", &save);
    if (!word)
        return true;
    f->at_s = strtod(word, &rest);
    if (*rest || !(f->at_s >= 0 && f->at_s <= 1e9))
        return false;
    word = strtok_r(NULL, " \t", &save);
    for (int a = 0; word && a < FAULT_ACTIONS; a++)
        if (strcmp(word, name_of[a]) == 0)
            f->action = (enum fault_action)a;
    const bool wants =
        f->action == FAULT_PAUSE || f->action == FAULT_DISK_FULL || f->action == FAULT_STORM;
    number = strtok_r(NULL, " \t", &save);
    if (f->action == FAULT_ACTIONS || !number != !wants || strtok_r(NULL, " \t", &save))
        return false;
    if (!number)
        return true;
    f->number = strtod(number, &rest);
    return !*rest && f->number > 0 && f->number <= (f->action == FAULT_STORM ? 64 : 3600);
}

static enum rxt_status read_plan(struct faults *f, FILE *file, struct rxt_error *err)
{
    enum rxt_status st = RXT_OK;
    char *line = NULL;
    size_t cap = 0;
    for (unsigned number = 1; st == RXT_OK && getline(&line, &cap, file) >= 0; number++) {
        struct fault one, *more;
        if (!parse_line(line, &one))
            st = rxt_fail(err, RXT_EFORMAT,
                          "%.120s, line %u: write SECONDS and kill, stop, pause S, disk_full S, "
                          "reconnect or storm N",
                          f->cfg.plan, number);
        else if (one.action == FAULT_DISK_FULL && !f->cfg.disk_switch)
            st = rxt_fail(err, RXT_EINVAL, "%.120s, line %u: disk_full needs --disk-switch",
                          f->cfg.plan, number);
        if (st != RXT_OK || one.action == FAULT_ACTIONS)
            continue;
        more = realloc(f->fault, (f->n + 1) * sizeof *more);
        if (!more) {
            st = RXT_ENOMEM;
            continue;
        }
        f->fault = more;
        f->fault[f->n++] = one;
    }
    free(line);
    return st;
}

/* ---- the server --------------------------------------------------------------------------- */

static enum rxt_status start_server(struct faults *f, struct rxt_error *err)
{
    extern char **environ;
    char *argv[] = {(char[]){"sh"}, (char[]){"-c"}, f->line, NULL};
    const char *log = f->cfg.log ? f->cfg.log : "/dev/null";
    posix_spawn_file_actions_t files;
    pid_t pid = 0;
    int bad = posix_spawn_file_actions_init(&files);
    if (!bad)
        bad = posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, log,
                                               O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (!bad)
        bad = posix_spawn_file_actions_adddup2(&files, STDOUT_FILENO, STDERR_FILENO);
    if (!bad)
        bad = posix_spawn(&pid, "/bin/sh", &files, NULL, argv, environ);
    (void)posix_spawn_file_actions_destroy(&files);
    if (bad)
        return rxt_fail(err, RXT_EIO, "cannot start the server: %s", strerror(bad));
    atomic_store(&f->pid, pid);
    f->stopping = false;
    return RXT_OK;
}

static void send_signal(const struct faults *f, int number)
{
    int pid = atomic_load(&f->pid);
    if (pid > 0)
        (void)kill(pid, number);
}

/* Waits for the end of what was told to end: half a minute to drain, then it is killed. False: it
 * still has not ended. */
static bool await_end(const struct faults *f)
{
    const int pid = atomic_load(&f->pid);
    const struct timespec nap = {.tv_nsec = 100000000};
    for (int i = 0; pid > 0 && waitpid(pid, NULL, WNOHANG) == 0; i++) {
        if (i == 350)
            return false;
        if (i == 300)
            (void)kill(pid, SIGKILL);
        (void)nanosleep(&nap, NULL);
    }
    return true;
}

/* Starts it again when it has ended, whoever ended it. */
static enum rxt_status look_after(struct faults *f, struct rxt_error *err)
{
    int pid = atomic_load(&f->pid), status = 0;
    if (pid <= 0 || waitpid(pid, &status, WNOHANG) != pid)
        return RXT_OK;
    atomic_store(&f->pid, 0);
    f->deaths += !f->stopping;
    if (f->deaths > 20)
        return rxt_fail(err, RXT_EIO, "the server ends again and again: see --server-log");
    return start_server(f, err);
}

static void set_disk(const struct faults *f, const char *word)
{
    FILE *file = f->cfg.disk_switch ? fopen(f->cfg.disk_switch, "we") : NULL;
    if (!file)
        return;
    (void)fputs(word, file);
    (void)fclose(file);
}

/* ---- clients that come and go ------------------------------------------------------------- */

static void *run_storm(void *arg)
{
    const struct faults *f = arg;
    struct rxt_error err;
    struct client_many *c = NULL;
    const struct client_many_config cfg = {
        .server = f->cfg.server, .n_connection = f->storm_clients, .max_requests = 1};
    if (client_many_open(&c, &cfg, &err) == RXT_OK) /* also if not: they have tried */
        client_many_close(&c);
    return NULL;
}

static void start_storm(struct faults *f, uint32_t clients)
{
    if (f->storms)
        (void)pthread_join(f->storm, NULL);
    f->storm_clients = clients;
    f->storms = pthread_create(&f->storm, NULL, run_storm, f) == 0;
}

/* ------------------------------------------------------------------------------------------- */

static enum rxt_status act(struct faults *f, const struct fault *x, uint64_t run_us,
                           struct client_many *c, struct rxt_error *err)
{
    const uint64_t end_us = run_us + (uint64_t)(1e6 * x->number);
    f->count[x->action]++;
    switch (x->action) {
    case FAULT_KILL:
        f->stopping = true;
        send_signal(f, SIGKILL);
        break;
    case FAULT_STOP:
        f->stopping = true;
        send_signal(f, SIGTERM);
        break;
    case FAULT_PAUSE:
        f->resume_us = end_us;
        send_signal(f, SIGSTOP);
        break;
    case FAULT_DISK_FULL:
        f->room_us = end_us;
        set_disk(f, "full");
        break;
    case FAULT_STORM:
        start_storm(f, (uint32_t)x->number);
        break;
    default:
        for (uint32_t k = 0; k < f->cfg.n_connection; k++)
            TRY(client_many_reconnect(c, k, err));
    }
    return RXT_OK;
}

enum rxt_status faults_tick(struct faults *f, uint64_t run_us, struct client_many *c,
                            struct rxt_error *err)
{
    for (size_t i = 0; i < f->n; i++)
        if (!f->fault[i].done && run_us >= (uint64_t)(1e6 * f->fault[i].at_s)) {
            f->fault[i].done = true;
            TRY(act(f, &f->fault[i], run_us, c, err));
        }
    if (f->resume_us && run_us >= f->resume_us) {
        send_signal(f, SIGCONT);
        f->resume_us = 0;
    }
    if (f->room_us && run_us >= f->room_us) {
        set_disk(f, "");
        f->room_us = 0;
    }
    return look_after(f, err);
}

enum rxt_status faults_settle(struct faults *f, struct rxt_error *err)
{
    send_signal(f, SIGCONT);
    f->resume_us = f->room_us = 0;
    set_disk(f, "");
    if (!f->stopping)
        return look_after(f, err);
    if (!await_end(f))
        return rxt_fail(err, RXT_EIO, "the server was stopped and does not end");
    atomic_store(&f->pid, 0);
    return start_server(f, err);
}

enum rxt_status faults_start(struct faults **out, const struct faults_config *cfg,
                             struct rxt_error *err)
{
    struct faults *f = *out = calloc(1, sizeof *f);
    const size_t n = strlen(cfg->command) + 8;
    FILE *plan = fopen(cfg->plan, "re");
    enum rxt_status st = RXT_OK;
    if (!plan)
        st = rxt_fail(err, RXT_EIO, "cannot read %.180s: %s", cfg->plan, strerror(errno));
    if (st == RXT_OK && f) {
        f->cfg = *cfg;
        st = read_plan(f, plan, err);
        f->line = malloc(n);
    }
    if (plan)
        (void)fclose(plan);
    if (st == RXT_OK && (!f || !f->line))
        st = RXT_ENOMEM;
    if (st == RXT_OK) {
        (void)snprintf(f->line, n, "exec %s", cfg->command);
        set_disk(f, "");
        st = start_server(f, err);
    }
    if (st != RXT_OK)
        faults_stop(out);
    return st;
}

const atomic_int *faults_pid(const struct faults *f)
{
    return &f->pid;
}

uint32_t faults_count(const struct faults *f, enum fault_action a)
{
    return f->count[a];
}

uint32_t faults_deaths(const struct faults *f)
{
    return f->deaths;
}

void faults_stop(struct faults **out)
{
    struct faults *f = *out;
    if (!f)
        return;
    if (f->storms)
        (void)pthread_join(f->storm, NULL);
    send_signal(f, SIGCONT);
    send_signal(f, SIGTERM);
    (void)await_end(f);
    free(f->fault);
    free(f->line);
    free(f);
    *out = NULL;
}
