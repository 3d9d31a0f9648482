// Products with a norm and SiLU behind each of them in one call: a thread takes some rows, which stay in its
// core's cache, through all layers (modules/world_models/perceptron.py).

#include "layers.h"

namespace {

struct Rows {
    const i64 groups, size, pieces, kept;  // as large pieces as they can be of groups of `size` rows

    explicit Rows(Given& given) : groups(given), size(given), pieces(given), kept(given) {}

    // Calls work(piece, first row) for all pieces, each of which is a window, with sums of its own. Where nothing
    // is kept for gradients, each thread has places of its own in rooms. Whichever thread is free takes the next
    // piece, as nothing depends on who does.
    template <typename Work>
    void each_piece(Work work) const {
        const i64 largest = (groups + pieces - 1) / pieces * size;
#pragma omp parallel for schedule(dynamic)
        for (i64 i = 0; i < pieces; ++i) {
            const i64 first = groups * i / pieces * size, rows = groups * (i + 1) / pieces * size - first;
            work(Piece{kept ? first : omp_get_thread_num() * largest, rows, i, rows}, first);
        }
    }
};

}  // namespace

extern "C" {

// The result of all rows of x and, if there is a table, of their latents' classes.
void perceptron(const i64* list) {
    Given given{list};
    const Rows rows(given);
    const Perceptron of(given);
    const F* x = given;
    const std::int16_t* latents = given;
    F* result = given;
    const i64 groups = of.tables.empty() ? 0 : of.tables[0].groups;
    i64 over = 1;
    for (const Stage& stage : of.stages) over *= stage.over;
    rows.each_piece([=, &of](Piece piece, i64 first) {
        of.forward(x + first * of.first().inputs, latents + first * groups, piece,
                   result + first / over * of.out.outputs);
    });
}

// The gradients of what products put out, in their rooms, from that of the last one, and those of x and of
// latents, of ones and zeros, unless they are null.
void perceptron_back(const i64* list) {
    Given given{list};
    const Rows rows(given);
    const Perceptron of(given);
    F *of_x = given, *of_latents = given;
    rows.each_piece([=, &of](Piece piece, i64 first) {
        of.backward(piece, of_x ? of_x + first * of.first().inputs : nullptr,
                    of_latents ? of_latents + first * of.tables[0].inputs : nullptr);
    });
}

}  // extern "C"
