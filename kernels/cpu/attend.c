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

/* The piece in_seq of the n pieces of a head of its sequence. By rows pieces differ by one vector
 * at most; else all but the last are whole. */
static void place(struct piece *at, const struct pieces *p, int32_t n)
{
    const int32_t n_vector = vectors_of(p, at->seq);
    if (p->by_rows) {
        const int64_t i = at->in_seq / p->n_head;
        at->head = at->in_seq % p->n_head;
        at->first = (int32_t)(n_vector * i / n);
        at->last = (int32_t)(n_vector * (i + 1) / n);
    } else {
        at->head = at->in_seq / n;
        at->first = at->in_seq % n * p->size;
        at->last = n_vector - at->first < p->size ? n_vector : at->first + p->size;
    }
}

/* From seq and in_seq, which may be past the end of that sequence, to the piece. */
static void find(struct piece *at, const struct pieces *p)
{
    for (; at->seq < p->rows->n_seq; at->seq++) {
        const int32_t n = pieces_of(p, at->seq);
        if (n > 0 && at->in_seq < n * p->n_head) {
            place(at, p, n);
            return;
        }
        at->in_seq -= n * p->n_head;
    }
}

struct piece piece_at(const struct pieces *p, int32_t item)
{
    struct piece at = {.item = item, .in_seq = item};
    find(&at, p);
    return at;
}

void piece_next(struct piece *at, const struct pieces *p)
{
    at->item++;
    at->in_seq++;
    find(at, p);
}

/* ---- running a job ---- */

void store_run(struct cpu_lane *ln, struct store_job *job)
{
    job->pieces =
        (struct pieces){.rows = &job->rows, .n_head = 1, .row_vectors = 1, .size = STORE_ROWS};
    int32_t n_row = job->rows.offset[job->rows.n_seq];
    /* an element of keys goes to a line of its own */
    uint64_t work = 90 * (uint64_t)n_row * (uint64_t)job->n_head * (uint64_t)job->dim;
    lane_run(ln, ln->be->k->store_keys, job, pieces_count(&job->pieces), work);
}

void attend_run(struct cpu_lane *ln, struct attend_job *job, int32_t n_head)
{
    job->pieces = (struct pieces){
        .rows = &job->rows,
        .n_head = n_head,
        .row_vectors = heads_group(job->heads),
        .size = ATTEND_ROWS,
        .by_rows = !job->causal,
    };
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
