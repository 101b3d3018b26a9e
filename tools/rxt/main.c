/* rxt: talk to a model, look after its sessions, check and measure it. */
#include "tools/rxt/cli.h"

#include "kernels/base/clock.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

uint64_t program_start_us;

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    {"chat", command_chat, "talk to a model that remembers, also after you closed it"},
    {"session", command_session, "list, show, fork, rewind, reset, erase, export, import"},
    {"inspect", command_inspect, "look into a session: what it holds, and since when"},
    {"remember", command_remember, "absorb given turns from a file"},
    {"verify", command_verify, "compare a model with recorded outputs of the reference"},
    {"recall", command_recall, "measure what is remembered after how many turns"},
    {"keygen", command_keygen, "make a key pair for a server or a client of it"},
    {"load", command_load, "measure a live server: is a turn as fast at 10,000 as at 10?"},
    {"bench", command_bench, "measure speed against what the machine can do"},
};

static int help(int code)
{
    FILE *out = code ? stderr : stdout;
    (void)fprintf(out, "usage: rxt COMMAND [OPTIONS]    (rxt COMMAND --help says more)\n\n");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        (void)fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].help);
    return code;
}

int main(int argc, char **argv)
{
    program_start_us = clock_us();
    (void)signal(SIGPIPE, SIG_IGN); /* `rxt ... | head` ends by a failed write, not by a signal */
    if (argc < 2)
        return help(EXIT_USAGE);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0)
        return help(0);
    if (strcmp(argv[1], "--version") == 0) {
        printf("rxt %s\n", RXT_VERSION);
        return 0;
    }
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    (void)fprintf(stderr, "rxt: there is no command \"%s\"\n", argv[1]);
    return help(EXIT_USAGE);
}
