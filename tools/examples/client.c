/* Talks to a running rxtd: example_client ENDPOINT SESSION QUERY streams one answer, waits until it
 * is remembered and says which version of the memory it became.
 *
 *   rxtd --model models/preview-13m --store talk.db &
 *   build/release/tools/examples/example_client tcp://127.0.0.1:7110 anna "hi, i'm Anna" */
#include "bridge/client.h"

#include <inttypes.h>
#include <stdio.h>

/* One turn, event by event. */
static enum rxt_status turn(struct client *c, const char *session, const char *query,
                            struct rxt_error *err)
{
    const struct client_request open = {.verb = CLIENT_OPEN, .session = session};
    const struct client_request ask = {
        .verb = CLIENT_TURN, .session = session, .query = query, .max_tokens = 40};
    struct client_event e = {0};
    TRY(client_call(c, &open, NULL, err)); /* makes the session if it is not there */
    TRY(client_start(c, &ask, err));
    while (!e.final) {
        TRY(client_next(c, &e, err));
        if (e.kind == CLIENT_TOKEN)
            (void)fwrite(e.text, 1, e.text_bytes, stdout);
        else if (e.kind == CLIENT_DONE) /* on the disk: will be remembered */
            printf("\n(%" PRIu64 " tokens)\n", e.n_answer);
        else if (e.kind == CLIENT_MEMORY) /* is remembered */
            printf("(version %" PRIu64 ")\n", e.version);
        (void)fflush(stdout);
    }
    return RXT_OK;
}

int main(int argc, char **argv)
{
    struct client *c = NULL;
    struct rxt_error err = {""};
    if (argc != 4) {
        (void)fprintf(stderr, "usage: example_client ENDPOINT SESSION QUERY\n");
        return 2;
    }
    const struct client_config cfg = {.endpoint = argv[1], .timeout_ms = 20000};
    enum rxt_status st = client_open(&c, &cfg, &err);
    if (st == RXT_OK)
        st = turn(c, argv[2], argv[3], &err);
    if (st != RXT_OK)
        (void)fprintf(stderr, "example_client: %s\n", err.text[0] ? err.text : rxt_status_text(st));
    client_close(&c);
    return st != RXT_OK;
}
