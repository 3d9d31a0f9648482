// Products by matrices that serve a few hundred rows again and again: they are laid out once, in the order in
// which they are read. A library, which is given them as they lie, takes up to a fifth longer in float32, and
// spends half of its time on that in bfloat16.

#include "panels.h"
#include "rows.h"

#include <atomic>

#if defined(ROUNDED) && defined(__AMX_BF16__) && defined(__AVX512F__) && defined(__linux__)
#define TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr i64 GROUP = 160;  // rows, about, that are multiplied by a panel while it is in the cache
constexpr i64 TILED = 32;  // rows that are summed up in tiles

std::atomic<i64> operations;

#ifdef TILES

constexpr i64 SIDE = PANEL / 2;  // of a tile of sums
static_assert(SIDE == 16 && DEPTH == 32, "a tile's");

struct Tiling {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Whether the operating system lets this process use tiles: it must be asked.
const bool tiles_allowed = [] {
    constexpr int REQUEST = 0x1023, TILE_DATA = 18;
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}();

// As long as it lives its thread can use tiles.
struct Tiled {
    const bool used;
    explicit Tiled(bool wanted) : used(wanted) {
        // Static, as compilers don't see that the numbers are read, and leave out those of a local one.
        static constexpr Tiling tiling;
        if (used) _tile_loadconfig(&tiling);
    }
    ~Tiled() {
        if (used) _tile_release();
    }
};

// Adds to tiles 0 to 3, of SIDE x SIDE sums each, the products of DEPTH numbers of TILED rows with a panel's.
inline void add_to_tiles(const F* a, i64 stride, const F* panel) {
    constexpr i64 BYTES = PANEL * sizeof(Words<F>::One);
    _tile_loadd(4, a, stride * sizeof(F));
    _tile_loadd(6, panel, BYTES);
    _tile_loadd(7, panel + PANEL, BYTES);
    _tile_loadd(5, a + SIDE * stride, stride * sizeof(F));
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

// Sums (TILED, PANEL) as `sum_up` has them.
inline void sum_up_in_tiles(const F* a, i64 stride, const F* panel, float* sums, i64 inner) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    const i64 whole = inner / DEPTH * DEPTH, rest = inner - whole;
    for (i64 k = 0; k < whole; k += DEPTH) add_to_tiles(a + k, stride, panel + k * PANEL);
    if (rest) {
        F last[TILED][DEPTH] = {};
        for (i64 r = 0; r < TILED; ++r) std::copy_n(a + r * stride + whole, rest, last[r]);
        std::atomic_signal_fence(std::memory_order_seq_cst);  // the compiler doesn't see that tiles read it
        add_to_tiles(last[0], DEPTH, panel + whole * PANEL);
    }
    constexpr i64 BYTES = PANEL * sizeof(float);
    _tile_stored(0, sums, BYTES);
    _tile_stored(1, sums + SIDE, BYTES);
    _tile_stored(2, sums + SIDE * PANEL, BYTES);
    _tile_stored(3, sums + SIDE * PANEL + SIDE, BYTES);
}

#else

constexpr bool tiles_allowed = false;
struct Tiled {
    explicit Tiled(bool) {}
};
inline void sum_up_in_tiles(const F*, i64, const F*, float*, i64) {}

#endif

}  // namespace

void count_product(i64 rows, i64 inner, i64 columns) {
    operations.fetch_add(2 * rows * inner * columns, std::memory_order_relaxed);
}

extern "C" {

// How many products and sums all products have taken so far.
void operations_so_far(i64* number) { *number = operations; }

void lay_out(const float* matrix, i64 by_row, i64 by_column, F* panels, i64 inner, i64 columns) {
    lay_out_panels(matrix, by_row, by_column, panels, inner, columns);
}

// out (rows, columns) = a (rows, inner) times the matrix that was laid out, plus a bias (columns) if it isn't
// null.
void multiply(const F* a, const F* panels, const float* bias, F* out, i64 rows, i64 inner, i64 columns) {
    const i64 depth = padded(inner, DEPTH), groups = (rows + GROUP - 1) / GROUP;
    const bool tiled = tiles_allowed && rows >= TILED;  // then each group has so many, too
    const i64 block = tiled ? TILED : ROWS;
    // Groups end with whole blocks, but for the last one.
    auto start = [=](i64 group) { return group < groups ? rows * group / groups / block * block : rows; };
    count_product(rows, inner, columns);
    const Tiled within(tiled);
    alignas(64) float sums[TILED * PANEL];
    for (i64 group = 0; group < groups; ++group)
        for (i64 column = 0; column < columns; column += PANEL) {
            const F* panel = panels + column * depth;
            const i64 end = start(group + 1), number = std::min(PANEL, columns - column);
            for (i64 next = start(group); next < end; next += block) {
                // The last tiles have some rows again of those before.
                const i64 row = tiled ? std::min(next, end - TILED) : next;
                const i64 few = std::min(block, end - row);
                if (tiled)
                    sum_up_in_tiles(a + row * inner, inner, panel, sums, inner);
                else
                    sum_up(a + row * inner, inner, panel, sums, few, inner);
                F* to = out + row * columns + column;
                write_sums(sums, bias ? bias + column : bias, 0, to, columns, few, number);
            }
        }
}

}  // extern "C"
