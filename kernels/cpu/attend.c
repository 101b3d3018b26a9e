#include "kernels/cpu/attend_impl.h"

/* ---- pieces ---- */

static int32_t vectors_of(const struct pieces *p, int32_t seq)
{
    return (p->rows->offset[seq + 1] - p->rows->offset[seq]) * p->row_vectors;
}

static int32_t pieces_of(const struct pieces *p, int32_t seq)
{
    return (vectors_of(p, seq) + p->size - 1) / p->size;
}

int32_t pieces_count(const struct pieces *p)
{
    int32_t n = 0;
    for (int32_t seq = 0; seq < p->rows->n_seq; seq++)
        n += pieces_of(p, seq) * p->n_head;
    return n;
}

/* Moves on until the place is a piece: from the end of a head to the next, from the last head to
 * the next sequence that has rows. */
static void settle(struct piece *at, const struct pieces *p)
{
    while (at->seq < p->rows->n_seq && at->first >= vectors_of(p, at->seq)) {
        at->first = 0;
        if (++at->head == p->n_head || vectors_of(p, at->seq) == 0) {
            at->head = 0;
            at->seq++;
        }
    }
    if (at->seq == p->rows->n_seq)
        return;
    int32_t n = vectors_of(p, at->seq);
    at->last = n - at->first < p->size ? n : at->first + p->size;
}

struct piece piece_at(const struct pieces *p, int32_t item)
{
    struct piece at = {.item = item};
    for (int32_t n; item >= (n = pieces_of(p, at.seq) * p->n_head); item -= n)
        at.seq++;
    int32_t n = pieces_of(p, at.seq);
    at.head = item / n;
    at.first = item % n * p->size;
    settle(&at, p);
    return at;
}

void piece_next(struct piece *at, const struct pieces *p)
{
    at->item++;
    at->first = at->last;
    settle(at, p);
}

/* ---- running a job ---- */

void store_run(struct cpu_lane *ln, struct store_job *job)
{
    job->pieces = (struct pieces){&job->rows, 1, 1, STORE_ROWS};
    int32_t n_row = job->rows.offset[job->rows.n_seq];
    /* an element of keys goes to a line of its own */
    uint64_t work = 90 * (uint64_t)n_row * (uint64_t)job->n_head * (uint64_t)job->dim;
    lane_run(ln, ln->be->k->store_keys, job, pieces_count(&job->pieces), work);
}

void attend_run(struct cpu_lane *ln, struct attend_job *job, int32_t n_head)
{
    job->pieces = (struct pieces){&job->rows, n_head, heads_group(job->heads), ATTEND_ROWS};
    uint64_t n_key = 0;
    for (int32_t seq = 0; seq < job->rows.n_seq; seq++) {
        uint64_t rows = (uint64_t)(job->rows.offset[seq + 1] - job->rows.offset[seq]);
        uint64_t start = job->rows.start ? (uint64_t)job->rows.start[seq] : 0;
        n_key += job->causal ? rows * start + rows * (rows + 1) / 2
                             : rows * (uint64_t)job->head_of(job->arg, seq, 0).n_key;
    }
    uint64_t heads = (uint64_t)n_head * (uint64_t)heads_group(job->heads);
    lane_run(ln, ln->be->k->attend, job, pieces_count(&job->pieces),
             4 * n_key * heads * (uint64_t)job->heads.dim);
}

struct scratch_need attend_need(void)
{
    return (struct scratch_need){.thread = sizeof(struct attend_place)};
}
