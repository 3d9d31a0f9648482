// Layers as a thread takes some rows, a piece, through them and back.
//
// All is given as a list of integers and addresses (null where there is none): layers take what is theirs from
// it in the order of their members. A layer has rooms, in which it keeps the rows that gradients need; `at` is
// where a piece's rows begin in them. Places that a layer reads, or is to write, are those of a piece.

#pragma once

#include "rows.h"

#include <algorithm>
#include <memory>
#include <vector>

// Numbers of its own that nobody has written yet.
template <typename T>
std::unique_ptr<T[]> scratch(i64 size) {
    return std::unique_ptr<T[]>(new T[size]);
}

// What is left of the list.
struct Given {
    const i64* next;

    operator i64() { return *next++; }
    template <typename T>
    operator T*() {
        return reinterpret_cast<T*>(*next++);
    }
};

// As many layers as the list says there are.
template <typename Layer>
std::vector<Layer> taken(Given& given) {
    std::vector<Layer> all;
    for (i64 left = given; left > 0; --left) all.emplace_back(given);
    return all;
}

// A piece's rows, where they are in rooms, and its first window. Gradients of biases and norms are summed up
// window by window; one has as many rows as there are agents.
struct Piece {
    i64 at, rows, window, agents;

    // What is left where each `over` rows have become one.
    Piece merged(i64 over) const { return {at / over, rows / over, window, agents / over}; }
};

// Adds the rows of each window of a piece to its sums (windows, width).
inline void add_by_window(Piece piece, const F* x, float* sums, i64 width) {
    float* sum = sums + piece.window * width;
    for (i64 first = 0; first < piece.rows; first += piece.agents, sum += width)
        each(width, [=](i64 i, auto kind) {
            using T = decltype(kind);
            T all = load<T>(sum + i);
            for (i64 row = first; row < first + piece.agents; ++row) all += load<T>(x + row * width + i);
            store(sum + i, all);
        });
}

// A product with a weight W, as seen from its output: `of_output_at` is where it finds the gradient of that.
struct Weighted {
    const i64 inputs, outputs;
    const F* const back_by_weight;  // laid out; for gradients alone, as is the room
    F* const of_output;

    explicit Weighted(Given& given)
        : inputs(given), outputs(given), back_by_weight(given), of_output(given) {}

    F* of_output_at(Piece piece) const { return of_output + piece.at * outputs; }

    void backward(Piece piece, F* of_input) const {
        multiply(of_output_at(piece), back_by_weight, nullptr, of_input, piece.rows, outputs, inputs);
    }
};

// x W^T, plus a bias unless it is null; `input_at` is where it finds x if it isn't given.
struct Linear : Weighted {
    const F* const by_weight;  // laid out
    const float* const bias;
    F* const input;
    float* const of_bias;  // sums of each window (windows, outputs), null where there is no bias

    explicit Linear(Given& given)
        : Weighted(given), by_weight(given), bias(given), input(given), of_bias(given) {}

    F* input_at(Piece piece) const { return input + piece.at * inputs; }

    void forward(const F* x, Piece piece, F* out) const {
        multiply(x, by_weight, bias, out, piece.rows, inputs, outputs);
    }

    void forward(Piece piece, F* out) const { forward(input_at(piece), piece, out); }

    // The gradient of its input is left out where that is null.
    void backward(Piece piece, F* of_input) const {
        if (of_input) Weighted::backward(piece, of_input);
        if (of_bias) add_by_window(piece, of_output_at(piece), of_bias, outputs);
    }
};

// x W^T of latents, x being ones and zeros: each of their classes picks a row of the table W^T.
struct Table : Weighted {
    const i64 groups;
    const F* const rows;

    explicit Table(Given& given) : Weighted(given), groups(given), rows(given) {}

    void add(Piece piece, const std::int16_t* latents, F* out) const {
        one_thread::add_picked(latents, rows, out, piece.rows, groups, outputs);
    }
};

// A product, its norm, and the mean of SiLU of that over some rows that follow each other.
struct Stage {
    const Linear product;
    const i64 over;
    const float *const added, *const gain, *const bias;  // of the norm
    float *const mean, *const scale;
    F* const seen;  // by the norm
    float *const of_added, *const of_gain, *const of_bias;  // sums of each window (windows, width)

    explicit Stage(Given& given)
        : product(given), over(given), added(given), gain(given), bias(given), mean(given), scale(given),
          seen(given), of_added(given), of_gain(given), of_bias(given) {}

    i64 width() const { return product.outputs; }
    F* seen_at(Piece piece) const { return seen + piece.at * width(); }

    // Of what is seen.
    void norm(Piece piece, F* out) const {
        one_thread::norm_silu(seen_at(piece), added, gain, bias, out, mean + piece.at, scale + piece.at, over,
                              piece.rows, width());
    }

    void norm_back(Piece piece, const F* of_out) const {
        for (i64 first = 0; first < piece.rows; first += piece.agents) {
            const i64 sum = (piece.window + first / piece.agents) * width();
            one_thread::norm_silu_back(of_out, seen_at(piece), added, gain, bias, mean + piece.at,
                                       scale + piece.at, product.of_output_at(piece), of_added + sum,
                                       of_gain + sum, of_bias + sum, over, first, first + piece.agents,
                                       width());
        }
    }
};

// Some stages, and a product behind them. The first product may have a table beside it.
struct Perceptron {
    const std::vector<Table> tables;  // one, or none
    const std::vector<Stage> stages;
    const Linear out;

    explicit Perceptron(Given& given)
        : tables(taken<Table>(given)), stages(taken<Stage>(given)), out(given) {}

    const Linear& first() const { return stages.empty() ? out : stages[0].product; }

    // The result of a piece's x and, if there is a table, of its latents' classes.
    void forward(const F* x, const std::int16_t* latents, Piece piece, F* result) const {
        for (size_t number = 0; number < stages.size(); ++number) {
            const Stage& stage = stages[number];
            F* seen = stage.seen_at(piece);
            stage.product.forward(x, piece, seen);
            if (number == 0)
                for (const Table& table : tables) table.add(piece, latents, seen);
            const Linear& behind = number + 1 < stages.size() ? stages[number + 1].product : out;
            F* normed = behind.input_at(piece.merged(stage.over));
            stage.norm(piece, normed);
            x = normed;
            piece = piece.merged(stage.over);
        }
        out.forward(x, piece, result);
    }

    // The gradients of x and of latents, of ones and zeros, unless they are null, from that of the result, which
    // is in the last product's room.
    void backward(Piece piece, F* of_x, F* of_latents) const {
        std::vector<Piece> pieces{piece};
        i64 most = 0;
        for (const Stage& stage : stages) {
            most = std::max(most, pieces.back().rows * stage.width());
            pieces.push_back(pieces.back().merged(stage.over));
        }
        const auto passed = scratch<F>(most);  // from a product on
        for (size_t number = stages.size(); number > 0; --number) {
            const Linear& behind = number < stages.size() ? stages[number].product : out;
            behind.backward(pieces[number], passed.get());
            stages[number - 1].norm_back(pieces[number - 1], passed.get());
        }
        first().backward(piece, of_x);
        for (const Table& table : tables)
            if (of_latents) table.backward(piece, of_latents);
    }
};
