#include "tools/rxt/terminal.h"

#include <histedit.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Versions whose content the conversation has had, newest on top: where /undo goes. */
struct history {
    uint64_t version[1024];
    int n;
};

static void history_push(struct history *h, uint64_t version)
{
    if (h->n == (int)(sizeof h->version / sizeof *h->version)) {
        memmove(h->version, h->version + 1, sizeof h->version - sizeof *h->version);
        h->n--;
    }
    h->version[h->n++] = version;
}

/* ---- commands --------------------------------------------------------------------------- */

static void stats(const struct chat_terminal *t, struct chat_seen *s)
{
    if (!t->verb(t->arg, BRIDGE_GET, 0, "", s))
        return;
    printf("session %s, version %" PRIu64 ", %" PRIu64 " turns, memory ", t->session, s->version,
           s->n_turn);
    for (int k = 0; k < 16; k++)
        printf("%02x", s->stm_hash[k]);
    printf("\n");
    if (s->n_answer > 0)
        printf("last turn: first token %.2f ms, answer %.1f ms (%" PRIu64 " + %" PRIu64
               " tokens), on disk %.1f ms, remembered %.1f ms\n",
               (double)s->first_token_us / 1e3, (double)s->answer_us / 1e3, s->n_query, s->n_answer,
               (double)s->journal_us / 1e3, (double)s->memory_us / 1e3);
}

static void undo(const struct chat_terminal *t, struct history *h, struct chat_seen *s)
{
    if (h->n < 2) {
        printf("(nothing to undo in this chat; rxt session rewind goes further back)\n");
        return;
    }
    uint64_t version = h->version[h->n - 2];
    if (!t->verb(t->arg, BRIDGE_REWIND, version, "", s))
        return;
    h->n--;
    h->version[h->n - 1] = s->version;
    printf("(the memory is again what it was at version %" PRIu64 "; that is version %" PRIu64
           " now)\n",
           version, s->version);
}

static void reset(const struct chat_terminal *t, struct history *h, struct chat_seen *s)
{
    if (!t->verb(t->arg, BRIDGE_RESET, 0, "", s))
        return;
    history_push(h, s->version);
    printf("(the memory is empty again: version %" PRIu64 "; /undo brings it back)\n", s->version);
}

static void fork_session(const struct chat_terminal *t, const char *to)
{
    struct chat_seen ignored = {0};
    if (t->verb(t->arg, BRIDGE_FORK, BRIDGE_HEAD, to, &ignored))
        printf("(session \"%s\" now begins here; open it with --session %s)\n", to, to);
}

/* True if the line was a command; *leave for /quit. */
static bool command(const struct chat_terminal *t, const char *line, struct history *h,
                    struct chat_seen *s, bool *leave)
{
    if (line[0] != '/')
        return false;
    if (strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0)
        *leave = true;
    else if (strcmp(line, "/undo") == 0)
        undo(t, h, s);
    else if (strcmp(line, "/reset") == 0)
        reset(t, h, s);
    else if (strncmp(line, "/fork ", 6) == 0 && line[6])
        fork_session(t, line + 6);
    else if (strcmp(line, "/stats") == 0)
        stats(t, s);
    else
        printf("/undo        forget the last turn\n"
               "/reset       forget everything\n"
               "/fork NAME   a second session that begins here\n"
               "/stats       version, memory hash and times of the last turn\n"
               "/quit        leave; the session is kept\n");
    return true;
}

/* ---- lines ------------------------------------------------------------------------------ */

static const char *prompt_text(EditLine *el)
{
    (void)el;
    return "> ";
}

enum rxt_status chat_talk(const struct chat_terminal *t, const struct chat_seen *start,
                          const char *greeting)
{
    struct history undo_list = {0};
    struct chat_seen seen = *start;
    EditLine *el = el_init("rxt", stdin, stdout, stderr);
    History *lines = history_init();
    HistEvent event;
    if (!el || !lines)
        return RXT_ENOMEM;
    (void)history(lines, &event, H_SETSIZE, 500);
    (void)el_set(el, EL_PROMPT, prompt_text);
    (void)el_set(el, EL_EDITOR, "emacs");
    (void)el_set(el, EL_HIST, history, lines);
    (void)el_set(el, EL_SIGNAL, 0);
    history_push(&undo_list, start->version);
    printf("%s, session \"%s\", version %" PRIu64 ". /help lists commands, Ctrl-D leaves.\n",
           greeting, t->session, start->version);
    for (bool leave = false; !leave;) {
        int n = 0;
        *t->interrupted = 0;
        const char *got = el_gets(el, &n);
        char *line = got && n > 0 ? strndup(got, (size_t)n) : NULL;
        if (!line)
            break;
        line[strcspn(line, "\r\n")] = '\0';
        if (line[0]) {
            (void)history(lines, &event, H_ENTER, line);
            if (!command(t, line, &undo_list, &seen, &leave) && t->turn(t->arg, line, &seen))
                history_push(&undo_list, seen.version);
        }
        free(line);
    }
    printf("\n(session \"%s\" is kept)\n", t->session);
    history_end(lines);
    el_end(el);
    return RXT_OK;
}
