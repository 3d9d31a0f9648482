// What is done with some rows in the thread that calls it, and how rows are shared among threads.

#pragma once

#include "numbers.h"

#include <omp.h>

// These are called from elsewhere, too.
extern "C" {
void silu(const F* x, F* out, i64 rows, i64 width);
void silu_back(const F* of_out, const F* x, F* of_x, i64 rows, i64 width);
void attend(const F* query_key_value, F* attended, float* shares, i64 groups, i64 agents, i64 heads, i64 size);
void attend_back(const F* of_attended, const F* query_key_value, const float* shares, F* of_input, i64 groups,
                 i64 agents, i64 heads, i64 size);
void multiply(const F* a, const F* panels, const float* bias, F* out, i64 rows, i64 inner, i64 columns);
}

// One of these, `draw`, has a twin of the same name that shares its rows among all threads.
namespace one_thread {

void add_norm(const float* x, i64 repeat, const F* y, float* total, F* normed, float* mean, float* scale,
              i64 rows, i64 width);
void add_norm_back(const F* of_normed, const float* total, const float* mean, const float* scale, float* g,
                   F* rounded, i64 rows, i64 width);
void draw_back(const F* of_drawn, const F* also, const float* of_probs, const float* probs,
               const float* living, F* of_logits, float mix, i64 rows, i64 classes, i64 groups);
void gru(const F* by_input, const F* by_state, const float* h, float* after, float* kept, i64 rows, i64 width);
void gru_back(const float* g, const float* h, const float* kept, F* of_input, F* of_state, float* of_h,
              i64 rows, i64 width);
void norm_silu(const F* x, const float* added, const float* gain, const float* bias, F* out, float* mean,
               float* scale, i64 over, i64 rows, i64 width);
void norm_silu_back(const F* of_out, const F* x, const float* added, const float* gain, const float* bias,
                    const float* mean, const float* scale, F* of_x, float* of_added, float* of_gain,
                    float* of_bias, i64 over, i64 first, i64 end, i64 width);
void draw(const F* logits, const float* uniforms, const float* living, float* probs, F* drawn,
          std::int16_t* picked, float mix, i64 rows, i64 classes, i64 groups);
void add_picked(const std::int16_t* picked, const F* table, F* out, i64 rows, i64 groups, i64 width);

}  // namespace one_thread

// Takes note of a product of `rows` with a matrix.
void count_product(i64 rows, i64 inner, i64 columns);

// Calls work(first, number) in each thread for its share of some rows, always the same one.
template <typename Work>
inline void among_threads(i64 rows, Work work) {
#pragma omp parallel
    {
        const i64 threads = omp_get_num_threads(), thread = omp_get_thread_num();
        const i64 first = rows * thread / threads, end = rows * (thread + 1) / threads;
        if (first < end) work(first, end - first);
    }
}
