/* dram_sms.cu - the DRAM rate that 80, 100, 112 and 132 SMs reach (design-gpu A.5, B.3, E.4).
 * Shapes   chunks of 8 KB from a buffer of 4.5 GB, eight in flight a block: 64 KB.
 * Launch   one block an SM. Settles how many SMs a decode step must keep beside an update. */
#include "tools/bench/cuda/pull.cuh"

int main()
{
    constexpr int counts[] = {80, 100, 112, 132};
    constexpr double card_tb_s = 4.54;
    double tb_s[4];
    cudaDeviceProp card = open_card();
    if (card.multiProcessorCount < counts[3])
        die("%s has %d SMs; 132 are needed", card.name, card.multiProcessorCount);
    const uint32_t *src = pull_open();
    for (int i = 0; i < 4; i++)
        tb_s[i] = PULL_BYTES / 1e9 / pull_ms(src, counts[i], 8 * 1024, 8);
    row("dram_80_tb_s", tb_s[0], "TB/s");
    row("dram_100_tb_s", tb_s[1], "TB/s", 0.95 * card_tb_s,
        tb_s[1] >= 0.95 * card_tb_s   ? "decode keeps 100 SMs, the update gets 32"
        : tb_s[2] >= 0.95 * card_tb_s ? "decode keeps 112 SMs beside an update"
                                      : "decode keeps more than 112 SMs beside an update");
    row("dram_112_tb_s", tb_s[2], "TB/s");
    row("dram_132_tb_s", tb_s[3], "TB/s", card_tb_s);
    return 0;
}
