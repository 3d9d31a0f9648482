// GRUs (modules/gru.py has the formulas): a step between two products, and whole sequences, where a thread
// takes some rows through all steps, products with input and state included.

#include "panels.h"
#include "rows.h"

#include <vector>

namespace {

// A step of a row, from what input and state (3, width) give to r, z and twice n. Keeps r, z, n and what the
// state gives to n (4, width).
template <typename N>
inline void step(const N* a, const N* b, const float* before, float* after, float* kept, i64 width) {
    each(width, [=](i64 i, auto kind) {
        using T = decltype(kind);
        const T recalled = load<T>(b + 2 * width + i);
        const T r = sigmoid<T>(load<T>(a + i) + load<T>(b + i));
        const T z = sigmoid<T>(load<T>(a + width + i) + load<T>(b + width + i));
        const T n = 2.0f * sigmoid<T>(load<T>(a + 2 * width + i) + r * recalled) - 1.0f;
        store(kept + i, r), store(kept + width + i, z);
        store(kept + 2 * width + i, n), store(kept + 3 * width + i, recalled);
        store<T>(after + i, n + z * (load<T>(before + i) - n));
    });
}

// From d, the gradient of the state after a step: those of what input and state give (3, width), and of the
// state before but for what its product passes on.
template <typename N>
inline void step_back(const float* d, const float* before, const float* kept, N* of_a, N* of_b,
                      float* of_before, i64 width) {
    each(width, [=](i64 i, auto kind) {
        using T = decltype(kind);
        const T r = load<T>(kept + i), z = load<T>(kept + width + i), n = load<T>(kept + 2 * width + i);
        const T recalled = load<T>(kept + 3 * width + i), of_after = load<T>(d + i);
        const T of_n = of_after * (1.0f - z) * (1.0f - n * n) * 0.5f;
        const T of_z = of_after * (load<T>(before + i) - n) * z * (1.0f - z);
        const T of_r = of_n * recalled * r * (1.0f - r);
        store(of_a + i, of_r), store(of_a + width + i, of_z), store(of_a + 2 * width + i, of_n);
        store(of_b + i, of_r), store(of_b + width + i, of_z), store<T>(of_b + 2 * width + i, of_n * r);
        store<T>(of_before + i, of_after * z);
    });
}

constexpr i64 MOST_ROWS = 2 * ROWS;  // that a thread takes through all steps together

std::vector<float> laid_out(const float* matrix, i64 by_row, i64 by_column, i64 inner, i64 columns) {
    std::vector<float> panels(padded(inner, DEPTH) * padded(columns, PANEL));
    lay_out_panels(matrix, by_row, by_column, panels.data(), inner, columns);
    return panels;
}

// out (rows, columns) = the product of a (rows, inner) with a matrix that was laid out, plus rows that are
// `added`, some numbers apart, if they aren't null.
inline void multiply_rows(const float* a, const float* panels, const float* added, i64 apart, float* out,
                          i64 rows, i64 inner, i64 columns) {
    float sums[ROWS * PANEL];
    for (i64 column = 0; column < columns; column += PANEL)
        for (i64 first = 0; first < rows; first += ROWS) {
            const i64 few = std::min(ROWS, rows - first), number = std::min(PANEL, columns - column);
            sum_up(a + first * inner, inner, panels + column * padded(inner, DEPTH), sums, few, inner);
            const float* more = added ? added + first * apart + column : added;
            write_sums(sums, more, apart, out + first * columns + column, columns, few, number);
        }
}

// Rows that a thread takes at once: there are some for each thread and, as the first rows may have the most
// steps, more for who is done.
inline i64 block_of(i64 rows) {
    const i64 blocks = 2 * omp_get_max_threads(), share = (rows + blocks - 1) / blocks;
    return std::clamp((share + ROWS - 1) / ROWS * ROWS, ROWS, MOST_ROWS);
}

}  // namespace

// A step of rows from h.
void one_thread::gru(const F* by_input, const F* by_state, const float* h, float* after, float* kept,
                     i64 rows, i64 width) {
    for (i64 row = 0; row < rows; ++row)
        step(by_input + row * 3 * width, by_state + row * 3 * width, h + row * width, after + row * width,
             kept + row * 4 * width, width);
}

void one_thread::gru_back(const float* g, const float* h, const float* kept, F* of_input, F* of_state,
                          float* of_h, i64 rows, i64 width) {
    for (i64 row = 0; row < rows; ++row)
        step_back(g + row * width, h + row * width, kept + row * 4 * width, of_input + row * 3 * width,
                  of_state + row * 3 * width, of_h + row * width, width);
}

extern "C" {

// All steps of x (in all, inputs). The rows of step t begin at starts[t] and are never more than at the step
// before; starts[steps] is the number of all. Weights and biases are those of the input, w (3, width, inputs)
// and b (3, width), and of the state, v (3, width, width) and c (3, width), which is `hidden` before the first
// step. `kept` may be null.
void gru_over_time(const float* x, const float* hidden, const float* w, const float* v, const float* b,
                   const float* c, float* states, float* kept, const i64* starts, i64 steps, i64 inputs,
                   i64 width) {
    const i64 rows = starts[1], block = block_of(rows), outputs = 3 * width;
    count_product(starts[steps], inputs + width, outputs);
    const std::vector<float> by_w = laid_out(w, 1, inputs, inputs, outputs);
    const std::vector<float> by_v = laid_out(v, 1, width, width, outputs);
#pragma omp parallel
    {
        std::vector<float> scratch(2 * block * outputs + 4 * width);
        float *by_input = scratch.data(), *by_state = by_input + block * outputs;
        float* room = by_state + block * outputs;
#pragma omp for schedule(dynamic)
        for (i64 first = 0; first < rows; first += block)
            for (i64 t = 0; t < steps; ++t) {
                const i64 number = std::min(block, starts[t + 1] - starts[t] - first), at = starts[t] + first;
                if (number <= 0) break;
                const float* before = t ? states + (starts[t - 1] + first) * width : hidden + first * width;
                multiply_rows(x + at * inputs, by_w.data(), b, 0, by_input, number, inputs, outputs);
                multiply_rows(before, by_v.data(), c, 0, by_state, number, width, outputs);
                for (i64 row = 0; row < number; ++row)
                    step(by_input + row * outputs, by_state + row * outputs, before + row * width,
                         states + (at + row) * width, kept ? kept + (at + row) * 4 * width : room, width);
            }
    }
}

// The gradients of x, of `hidden` and of what inputs and states give to all steps, from those of the states.
// Those of `hidden` must be zero before.
void gru_over_time_back(const float* of_states, const float* hidden, const float* w, const float* v,
                        const float* states, const float* kept, float* of_x, float* of_hidden,
                        float* of_input, float* of_state, const i64* starts, i64 steps, i64 inputs,
                        i64 width) {
    const i64 rows = starts[1], block = block_of(rows), outputs = 3 * width;
    count_product(starts[steps], inputs + width, outputs);
    const std::vector<float> by_w = laid_out(w, inputs, 1, outputs, inputs);
    const std::vector<float> by_v = laid_out(v, width, 1, outputs, width);
#pragma omp parallel
    {
        std::vector<float> d(width);
#pragma omp for schedule(dynamic)
        for (i64 first = 0; first < rows; first += block)
            for (i64 t = steps - 1; t >= 0; --t) {
                const i64 number = std::min(block, starts[t + 1] - starts[t] - first), at = starts[t] + first;
                if (number <= 0) continue;
                const float* before = t ? states + (starts[t - 1] + first) * width : hidden + first * width;
                float* back = of_hidden + first * width;
                for (i64 row = 0; row < number; ++row) {
                    const float* of_row = of_states + (at + row) * width;
                    for (i64 i = 0; i < width; ++i) d[i] = of_row[i] + back[row * width + i];
                    step_back(d.data(), before + row * width, kept + (at + row) * 4 * width,
                              of_input + (at + row) * outputs, of_state + (at + row) * outputs,
                              back + row * width, width);
                }
                multiply_rows(of_state + at * outputs, by_v.data(), back, width, back, number, outputs,
                              width);
                multiply_rows(of_input + at * outputs, by_w.data(), nullptr, 0, of_x + at * inputs, number,
                              outputs, inputs);
            }
    }
}

}  // extern "C"
