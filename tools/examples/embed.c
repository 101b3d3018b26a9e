/* A program that embeds a model which remembers: tells it a fact, asks for it, moves the memory
 * into a second session and asks again.
 * usage: embed [MODEL]     a checkpoint folder, default models/demo-15m */
#include "rxt/rxt.h"

#include <stdio.h>
#include <stdlib.h>

static bool print(void *user, int32_t id, const char *text, size_t bytes)
{
    (void)user;
    (void)id;
    return fwrite(text, 1, bytes, stdout) == bytes; /* false would cancel the turn */
}

/* One turn: the answer is streamed, then the memory takes the turn in. */
static enum rxt_status say(struct rxt_session *s, const char *query, struct rxt_error *err)
{
    const struct rxt_prompt prompt = {.query = query};
    printf("> %s\n", query);
    TRY(rxt_session_turn(s, &prompt, &RXT_GREEDY, print, NULL, NULL, err));
    printf("\n");
    return rxt_session_update(s, err);
}

static enum rxt_status run(const char *dir, struct rxt_error *err)
{
    enum rxt_status st;
    struct rxt_model *model = NULL;
    struct rxt_session *first = NULL, *second = NULL;
    void *image = NULL;

    TRY_OR(done, rxt_model_open(&model, dir, NULL, err));
    TRY_OR(done, rxt_session_create(&first, model, NULL, err));
    TRY_OR(done, say(first, "My name is Anna.", err));
    TRY_OR(done, say(first, "What is my name?", err));

    /* The whole conversation is in here, whether it had two turns or ten thousand. */
    size_t bytes = rxt_session_image_bytes(first);
    image = malloc(bytes);
    if (!image) {
        st = rxt_fail(err, RXT_ENOMEM, "out of memory for %zu bytes", bytes);
        goto done;
    }
    TRY_OR(done, rxt_session_export(first, image, bytes, err));
    printf("-- %zu bytes moved to another session\n", bytes);
    TRY_OR(done, rxt_session_create(&second, model, NULL, err));
    TRY_OR(done, rxt_session_import(second, image, bytes, err));
    TRY_OR(done, say(second, "What is my name?", err));
done:
    free(image);
    rxt_session_destroy(&second);
    rxt_session_destroy(&first);
    rxt_model_close(&model);
    return st;
}

int main(int argc, char **argv)
{
    struct rxt_error err = {0};
    if (run(argc > 1 ? argv[1] : "models/demo-15m", &err) == RXT_OK)
        return 0;
    (void)fprintf(stderr, "embed: %s\n", err.text);
    return 1;
}
