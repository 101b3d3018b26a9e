/* ingest.cu - how fast one SM takes in expert slices while 80 SMs do (design-gpu A.5, B.2, B.5).
 * Shapes   slices of 72 KB from a buffer of 4.5 GB; two in flight a block (live and speculative)
 *          as six copies of 24 KB, then one alone, started when the last has arrived.
 * Launch   80 blocks, one an SM. 57 GB/s x 80 is the DRAM rate, 4.54 TB/s. */
#include "tools/bench/cuda/pull.cuh"

int main()
{
    constexpr int blocks = 80;
    constexpr uint32_t slice = 72 * 1024;
    open_card();
    const uint32_t *src = pull_open();
    const double stream = PULL_BYTES / 1e6 / blocks / pull_ms(src, blocks, slice / 3, 6);
    const double alone = pull_ms(src, blocks, slice, 1) * 1e3 / (PULL_BYTES / slice / blocks);
    row("ingest_gb_s", stream, "GB/s an SM", 57,
        stream >= 57 ? "an expert stays on its 8 blocks" : "spread each expert over 11 blocks");
    row("ingest_slice_us", alone, "us", 2.0);
    return 0;
}
