// Sums of rows of a table (classes, groups, width): products with ones and zeros, of which each group has one 1.

#include "rows.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace {

constexpr i64 SOME = 2 * LANES;  // numbers in two registers, in the order in which they are quickest to read
constexpr i64 MANY = 4;  // times SOME are summed up in registers

inline void add_some(const F* from, Floats (&sum)[2]) {
#ifdef ROUNDED
    const auto pairs = read<Unsigned>(from);
    sum[0] += bits_of<Floats>(pairs << 16);
    sum[1] += bits_of<Floats>(pairs & 0xffff0000);
#else
    sum[0] += load<Floats>(from);
    sum[1] += load<Floats>(from + LANES);
#endif
}

// Adds such sums to numbers in memory.
template <typename N>
inline void add_sums(const Floats (&sum)[2], N* out) {
#ifdef ROUNDED
    Integers in_turns;
    for (i64 l = 0; l < LANES; ++l) in_turns[l] = static_cast<std::int32_t>(l / 2 + l % 2 * LANES);
    const Floats left = __builtin_shuffle(sum[0], sum[1], in_turns);
    const Floats right = __builtin_shuffle(sum[0], sum[1], in_turns + static_cast<std::int32_t>(LANES / 2));
#else
    const Floats left = sum[0], right = sum[1];
#endif
    store<Floats>(out, load<Floats>(out) + left);
    store<Floats>(out + LANES, load<Floats>(out + LANES) + right);
}

// Adds to NUMBER * SOME numbers those of all rows that `visit` gives.
template <i64 NUMBER, typename N, typename Visit>
inline void add_columns(N* out, Visit visit) {
    Floats sum[NUMBER][2] = {};
    visit([&](const F* row) __attribute__((always_inline)) {
#pragma GCC unroll 4
        for (i64 n = 0; n < NUMBER; ++n) add_some(row + n * SOME, sum[n]);
    });
#pragma GCC unroll 4
    for (i64 n = 0; n < NUMBER; ++n) add_sums(sum[n], out + n * SOME);
}

// Adds to `out` (width) all rows that visit(column, give) gives from a column on.
template <typename N, typename Visit>
inline void add_rows(N* out, i64 width, Visit visit) {
    i64 column = 0;
    auto from_here = [&](auto give) { visit(column, give); };
    for (; column + MANY * SOME <= width; column += MANY * SOME) add_columns<MANY>(out + column, from_here);
    for (; column + SOME <= width; column += SOME) add_columns<1>(out + column, from_here);
    for (; column < width; ++column) {
        float sum = load<float>(out + column);
        from_here([&](const F* row) { sum += load<float>(row); });
        store(out + column, sum);
    }
}

}  // namespace

extern "C" {

// Adds the gradient of the table to `of_table`. A thread has the same groups of all blocks of rows, so no two
// write to the same place. Rows that pick the same entry are linked, so that it is read and written once.
void add_picked_back(const std::int16_t* picked, const F* of_out, float* of_table, i64 rows, i64 classes,
                     i64 groups, i64 width) {
    constexpr i64 BLOCK = 512;  // rows, which stay in a core's cache for all groups
#pragma omp parallel
    {
        std::vector<i64> all_newest(classes), before(BLOCK);
        for (i64 start = 0; start < rows; start += BLOCK) {
            const i64 number = std::min(BLOCK, rows - start);
            const F* of_block = of_out + start * width;
#pragma omp for schedule(static) nowait
            for (i64 g = 0; g < groups; ++g) {
                std::fill(all_newest.begin(), all_newest.end(), -1);
                for (i64 row = 0; row < number; ++row) {
                    const i64 c = picked[(start + row) * groups + g];
                    if (c >= 0) before[row] = std::exchange(all_newest[c], row);
                }
                for (i64 c = 0; c < classes; ++c) {
                    const i64 newest = all_newest[c], *next = before.data();
                    if (newest < 0) continue;
                    add_rows(of_table + (c * groups + g) * width, width, [=](i64 column, auto give) {
                        const F* from = of_block + column;
                        for (i64 row = newest; row >= 0; row = next[row]) give(from + row * width);
                    });
                }
            }
        }
    }
}

}  // extern "C"

// Adds to out (rows, width) the rows of the table that the classes (rows, groups) pick; a negative one picks
// nothing.
void one_thread::add_picked(const std::int16_t* picked, const F* table, F* out, i64 rows, i64 groups,
                            i64 width) {
    for (i64 row = 0; row < rows; ++row) {
        const std::int16_t* classes = picked + row * groups;
        add_rows(out + row * width, width, [=](i64 column, auto give) {
            const F* from = table + column;
            for (i64 g = 0; g < groups; ++g)
                if (classes[g] >= 0) give(from + (classes[g] * groups + g) * width);
        });
    }
}
