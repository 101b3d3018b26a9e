/* rxtd: the server (bridge/PROTOCOL.md is what it speaks). */
#include "tools/rxtd/config.h"

#include "kernels/base/thread.h"
#include "tools/rxt/options.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct server *server; /* for the signal handlers */

static int complain(enum rxt_status st, const struct rxt_error *err)
{
    (void)fprintf(stderr, "rxtd: %s\n", err->text[0] ? err->text : rxt_status_text(st));
    return 1;
}

struct command {
    int argc;
    char **argv;
};

/* SIGHUP: file, environment and command line again; only limits are taken. */
static bool on_reload(void *arg, struct server_config *out, struct bridge_limits *tenant)
{
    const struct command *command = arg;
    struct rxtd_config c;
    if (rxtd_config_read(&c, command->argc, command->argv) >= 0)
        return false;
    *out = c.server;
    *tenant = c.bridge.tenant;
    return true;
}

/* ---- the end ----------------------------------------------------------------------------- */

#define EXIT_GIVEN_UP 3
#define EXIT_DEVICE 4
#define CLOSE_S 5 /* for what a drain leaves to do, or a second signal */

static volatile sig_atomic_t asked; /* to end */

/* A thread that waits for a disk that does not answer cannot be joined. DONE is said when the disk
 * has answered, so that to end without it loses no more than kill -9 does. */
static void give_up(int number)
{
    static const char why[] =
        "rxtd: ended without waiting for the disk any longer. What reported DONE is on it; the "
        "rest may or may not be there: send it again under its id.\n";
    (void)number;
    (void)!write(STDERR_FILENO, why, sizeof why - 1);
    _exit(EXIT_GIVEN_UP);
}

/* Once: drains, for so long as it may. Twice: stops. In any case it ends. */
static void on_signal(int number)
{
    if (number == SIGHUP) {
        server_reload(server);
        return;
    }
    if (asked) {
        server_stop(server);
        (void)alarm(CLOSE_S);
    } else {
        server_drain(server);
        (void)alarm(server_drain_ms(server) / 1000 + 1 + CLOSE_S);
    }
    asked = 1;
}

/* The server is being opened: it ends when it is open, and soon in any case. */
static void on_early_signal(int number)
{
    if (number == SIGHUP)
        return;
    (void)alarm(asked ? 1 : CLOSE_S);
    asked = 1;
}

/* The server is being closed: there is nothing left to reload. */
static void on_late_signal(int number)
{
    if (number != SIGHUP && asked)
        (void)alarm(1);
    asked |= number != SIGHUP;
}

static struct server_null *null_server;

static void on_null_signal(int number)
{
    (void)number;
    server_null_stop(null_server);
}

static void catch_signals(void (*handler)(int))
{
    struct sigaction a = {.sa_handler = handler, .sa_flags = SA_RESTART};
    (void)sigemptyset(&a.sa_mask);
    (void)sigaction(SIGTERM, &a, NULL);
    (void)sigaction(SIGINT, &a, NULL);
    (void)sigaction(SIGHUP, &a, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
}

/* Without a model there is no store, and nothing to drain. */
static int serve_null(const struct rxtd_config *c)
{
    struct rxt_error err = {""};
    (void)signal(SIGALRM, give_up);
    catch_signals(on_early_signal);
    enum rxt_status st = server_null_open(&null_server, &c->server, c->null_step_us, &err);
    if (st != RXT_OK)
        return complain(st, &err);
    catch_signals(on_null_signal);
    if (asked)
        server_null_stop(null_server);
    server_null_run(null_server);
    catch_signals(SIG_IGN);
    server_null_close(&null_server);
    return 0;
}

static int missing(const char *name)
{
    (void)fprintf(stderr, "rxtd: %s is not set: say --%s, or set it in the file\n", name, name);
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    struct rxtd_config c;
    struct rxt_error err = {""};
    struct rxt_model *model = NULL;
    int code = rxtd_config_read(&c, argc, argv);
    if (code >= 0)
        return code;
    (void)thread_slice(THREAD_WAITS_US); /* also for the threads of libraries */
    struct command command = {argc, argv};
    c.server.reload = on_reload;
    c.server.reload_arg = &command;
    if (c.null_model && !c.check_only)
        return serve_null(&c);
    if (!c.model)
        return missing("model");
    if (!c.bridge.store_path)
        return missing("store");
    enum rxt_status st = server_check(&c.server, &err);
    if (st != RXT_OK)
        return complain(st, &err);
    if (c.check_only) {
        printf("the configuration is sound\n");
        return 0;
    }
    (void)signal(SIGALRM, give_up);
    catch_signals(on_early_signal);
    st = rxt_model_open(&model, c.model, &c.model_options, &err);
    if (st == RXT_OK)
        st = server_open(&server, model, &c.bridge, &c.server, &err);
    if (st != RXT_OK) {
        rxt_model_close(&model);
        return complain(st, &err);
    }
    catch_signals(on_signal);
    if (asked)
        server_stop(server);
    server_catch_faults(STDERR_FILENO);
    (void)thread_slice(THREAD_COMPUTES_US); /* the engine */
    server_run(server);
    const char *failure = server_failure(server);
    if (failure)
        (void)fprintf(stderr,
                      "rxtd: the device failed: %s. This process can serve no more; what reported "
                      "DONE is in the journal. Start it again.\n",
                      failure);
    catch_signals(on_late_signal);
    (void)alarm(server_left_ms(server) / 1000 + 1 + CLOSE_S);
    server_close(&server);
    rxt_model_close(&model);
    return failure ? EXIT_DEVICE : 0;
}
