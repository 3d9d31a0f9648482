// The world model's scan over real play (modules/world_models/scan.py) in one call, and a step ahead of many
// states in another. Only the agents of a window see each other, so a thread takes a piece, some windows,
// through all steps without waiting for anybody.

#include "layers.h"

#include <algorithm>

namespace {

// The same of latents and actions. Gradients reach the latents alone.
struct Picks : Table {
    const F* const of_actions;  // (actions, outputs)

    explicit Picks(Given& given) : Table(given), of_actions(given) {}

    void forward(Piece piece, const std::int16_t* latents, const std::int16_t* actions, F* out) const {
        std::memset(static_cast<void*>(out), 0, piece.rows * outputs * sizeof(F));
        add(piece, latents, out);
        one_thread::add_picked(actions, of_actions, out, piece.rows, 1, outputs);
    }
};

// The sum of the residual stream and what a layer adds to it, and its norm.
struct AddNorm {
    const i64 width;
    float *const total, *const mean, *const scale;

    explicit AddNorm(Given& given) : width(given), total(given), mean(given), scale(given) {}

    // Of x there are `repeat` rows, which come again and again.
    const float* forward(Piece piece, const float* x, i64 repeat, const F* y, F* normed) const {
        float* sum = total + piece.at * width;
        one_thread::add_norm(x, repeat, y, sum, normed, mean + piece.at, scale + piece.at, piece.rows,
                             width);
        return sum;
    }

    // Adds the gradient by the norm to that of the sum, which `rounded` gets, too.
    void backward(Piece piece, const F* of_normed, float* of_sum, F* rounded) const {
        one_thread::add_norm_back(of_normed, total + piece.at * width, mean + piece.at, scale + piece.at,
                                  of_sum, rounded, piece.rows, width);
    }
};

struct FusionLayer {
    const i64 width, heads, agents;  // that attend to each other
    const AddNorm attention_norm, feed_forward_norm;
    const Linear query_key_value, attention_out, widen, narrow;
    F *const attending, *const hidden;  // what the first and the third product gave
    float* const shares;

    explicit FusionLayer(Given& given)
        : width(given), heads(given), agents(given), attention_norm(given), feed_forward_norm(given),
          query_key_value(given), attention_out(given), widen(given), narrow(given), attending(given),
          hidden(given), shares(given) {}

    F* attending_at(Piece piece) const { return attending + piece.at * query_key_value.outputs; }
    F* hidden_at(Piece piece) const { return hidden + piece.at * widen.outputs; }
    float* shares_at(Piece piece) const { return shares + piece.at * agents * heads; }

    // The residual stream behind it; y, which is to be added to that before, becomes what is to be added then.
    const float* forward(Piece piece, const float* x, i64 repeat, F* y) const {
        x = attention_norm.forward(piece, x, repeat, y, query_key_value.input_at(piece));
        query_key_value.forward(piece, attending_at(piece));
        attend(attending_at(piece), attention_out.input_at(piece), shares_at(piece), piece.rows / agents,
               agents, heads, width / heads);
        attention_out.forward(piece, y);
        x = feed_forward_norm.forward(piece, x, piece.rows, y, widen.input_at(piece));
        widen.forward(piece, hidden_at(piece));
        silu(hidden_at(piece), narrow.input_at(piece), piece.rows, widen.outputs);
        narrow.forward(piece, y);
        return x;
    }

    // Makes g, the gradient of both, that of both before; `rounded` gets it, too.
    void backward(Piece piece, float* g, F* rounded) const {
        const auto passed = scratch<F>(piece.rows * widen.outputs);  // from a product on
        F* d = passed.get();
        narrow.backward(piece, d);
        silu_back(d, hidden_at(piece), widen.of_output_at(piece), piece.rows, widen.outputs);
        widen.backward(piece, d);
        feed_forward_norm.backward(piece, d, g, attention_out.of_output_at(piece));
        attention_out.backward(piece, d);
        attend_back(d, attending_at(piece), shares_at(piece), query_key_value.of_output_at(piece),
                    piece.rows / agents, agents, heads, width / heads);
        query_key_value.backward(piece, d);
        attention_norm.backward(piece, d, g, rounded);
    }
};

// A Transformer over agents.
template <typename Project>
struct Fusion {
    const Project project;
    const i64 agents;
    const float* const of_agents;  // (agents, width), what tells them apart
    std::vector<FusionLayer> layers;
    const AddNorm norm;

    explicit Fusion(Given& given)
        : project(given), agents(given), of_agents(given), layers(taken<FusionLayer>(given)), norm(given) {}

    template <typename... Seen>
    void forward(Piece piece, F* normed, Seen... seen) const {
        const auto y = scratch<F>(piece.rows * norm.width);
        const float* x = of_agents;
        i64 repeat = agents;
        project.forward(piece, seen..., y.get());
        for (const FusionLayer& layer : layers) {
            x = layer.forward(piece, x, repeat, y.get());
            repeat = piece.rows;
        }
        norm.forward(piece, x, repeat, y.get(), normed);
    }

    void backward(Piece piece, const F* of_normed, F* of_seen) const {
        std::vector<float> g(piece.rows * norm.width);
        // What each adds to the stream has the gradient of the stream behind it.
        auto adding = [&](size_t number) {
            return number ? layers[number - 1].narrow.of_output_at(piece) : project.of_output_at(piece);
        };
        norm.backward(piece, of_normed, g.data(), adding(layers.size()));
        for (size_t number = layers.size(); number > 0; --number)
            layers[number - 1].backward(piece, g.data(), adding(number - 1));
        project.backward(piece, of_seen);
    }
};

// A GRU's step, with twice its weights of n.
struct Cell {
    const Linear of_input, of_state;
    float* const kept;

    explicit Cell(Given& given) : of_input(given), of_state(given), kept(given) {}

    i64 width() const { return of_state.inputs; }
    float* kept_at(Piece piece) const { return kept + piece.at * 4 * width(); }

    void forward(Piece piece, const float* h, float* after) const {
        const auto by_both = scratch<F>(2 * piece.rows * of_input.outputs);
        F *by_input = by_both.get(), *by_state = by_input + piece.rows * of_input.outputs;
        F* rounded = of_state.input_at(piece);
        each_in_rows(piece.rows, width(),
                     [=](i64 i, auto kind) { store(rounded + i, load<decltype(kind)>(h + i)); });
        of_input.forward(piece, by_input);
        of_state.forward(piece, by_state);
        one_thread::gru(by_input, by_state, h, after, kept_at(piece), piece.rows, width());
    }

    // From g, the gradient of the state after h.
    void backward(Piece piece, const float* g, const float* h, F* of_x, float* of_h) const {
        one_thread::gru_back(g, h, kept_at(piece), of_input.of_output_at(piece),
                             of_state.of_output_at(piece), of_h, piece.rows, width());
        of_input.backward(piece, of_x);
        const auto by_product = scratch<F>(piece.rows * width());
        const F* more = by_product.get();
        of_state.backward(piece, by_product.get());
        each_in_rows(piece.rows, width(), [=](i64 i, auto kind) {
            using T = decltype(kind);
            store<T>(of_h + i, load<T>(of_h + i) + load<T>(more + i));
        });
    }
};

// Windows of some steps; where nothing is kept for gradients, all steps have the same places in rooms. What
// comes of a row doesn't depend on its piece: all of these are large enough for tiles, or none is, as tiles sum
// up in their own way, and numbers are taken row by row, as those behind the last full register round in theirs.
struct Extent {
    const i64 steps, windows, agents, pieces, kept;

    explicit Extent(Given& given)
        : steps(given), windows(given), agents(given), pieces(given), kept(given) {}

    i64 rows() const { return windows * agents; }
    i64 row(i64 step, i64 window) const { return step * rows() + window * agents; }

    // Calls work(window, rows) for each piece, with its first window.
    template <typename Work>
    void each_piece(Work work) const {
#pragma omp parallel for schedule(static)
        for (i64 i = 0; i < pieces; ++i) {
            const i64 window = windows * i / pieces, end = windows * (i + 1) / pieces;
            work(window, (end - window) * agents);
        }
    }

    Piece piece(i64 step, i64 window, i64 rows) const {
        return {row(kept ? step : 0, window), rows, window, agents};
    }
};

struct Scan {
    const Extent extent;
    const i64 width, classes, groups;
    const Fusion<Linear> obs_fusion;
    const Perceptron posterior_head;
    const Fusion<Picks> act_fusion;
    const Cell cell;
    const float *const living, *const goes_on;  // (T, B, n), (T, B)

    explicit Scan(Given& given)
        : extent(given), width(given), classes(given), groups(given), obs_fusion(given), posterior_head(given),
          act_fusion(given), cell(given), living(given), goes_on(given) {}

    i64 size() const { return classes * groups; }

    // Calls work(i, j, share, T()) for the numbers of a piece's states at a step, which are i in these and j in
    // rows of twice the width. A share of the numbers before goes on, all or nothing.
    template <typename Work>
    void each_number(i64 step, i64 window, i64 rows, Work work) const {
        for (i64 row = 0; row < rows; ++row) {
            const float share = goes_on[step * extent.windows + window + row / extent.agents];
            each(width, [=](i64 i, auto kind) { work(row * width + i, 2 * row * width + i, share, kind); });
        }
    }
};

}  // namespace

extern "C" {

// States (T, B, n, width), posterior probabilities, draws (T, B, n, classes, groups) and their classes
// (T, B, n, groups) from embedded observations, uniform numbers and actions.
void scan(const i64* list, float mix) {
    Given given{list};
    const Scan of(given);
    const float *embedded = given, *uniforms = given;
    const std::int16_t* actions = given;
    float *states = given, *posteriors = given;
    F* drawn = given;
    std::int16_t* picked = given;
    const Extent& extent = of.extent;
    const i64 width = of.width;
    extent.each_piece([=, &of, &extent](i64 window, i64 rows) {
        std::vector<float> after(rows * width);  // the state that the step before led to
        const auto logits = scratch<F>(rows * of.size());
        for (i64 t = 0; t < extent.steps; ++t) {
            const Piece piece = extent.piece(t, window, rows);
            const i64 first = extent.row(t, window);
            const float *seen = embedded + first * width, *before = after.data();
            float* h = states + first * width;
            F* both = of.obs_fusion.project.input_at(piece);
            of.each_number(t, window, rows, [=](i64 i, i64 j, float share, auto kind) {
                using T = decltype(kind);
                const T state = share * load<T>(before + i);
                store(h + i, state);
                store(both + j, load<T>(seen + i)), store(both + j + width, state);
            });
            F* fused = of.posterior_head.first().input_at(piece);
            of.obs_fusion.forward(piece, fused);
            of.posterior_head.forward(fused, nullptr, piece, logits.get());
            one_thread::draw(logits.get(), uniforms + first * of.groups, of.living + first,
                             posteriors + first * of.size(), drawn + first * of.size(),
                             picked + first * of.groups, mix, rows, of.classes, of.groups);
            if (t + 1 == extent.steps) break;
            of.act_fusion.forward(piece, of.cell.of_input.input_at(piece), picked + first * of.groups,
                                  actions + first);
            of.cell.forward(piece, h, after.data());
        }
    });
}

// The gradient of embedded observations, and those of what products put out, in their rooms, from those of
// states, draws and probabilities.
void scan_back(const i64* list, float mix) {
    Given given{list};
    const Scan of(given);
    const float *states = given, *posteriors = given, *of_states = given;
    const F* of_drawn = given;
    const float* of_posteriors = given;
    float* of_embedded = given;
    const Extent& extent = of.extent;
    const i64 width = of.width;
    extent.each_piece([=, &of, &extent](i64 window, i64 rows) {
        const auto of_states_of_cell = scratch<float>(2 * rows * width);
        float *of_after = of_states_of_cell.get(), *of_h = of_after + rows * width;
        const auto of_seen = scratch<F>(2 * rows * width), of_normed = scratch<F>(rows * width);
        const auto of_picked = scratch<F>(rows * of.size());
        std::fill_n(of_h, rows * width, 0.0f);  // nothing comes of the last step's state
        for (i64 t = extent.steps - 1; t >= 0; --t) {
            const Piece piece = extent.piece(t, window, rows);
            const i64 first = extent.row(t, window);
            const bool moves_on = t + 1 < extent.steps;
            if (moves_on) {
                of.cell.backward(piece, of_after, states + first * width, of_normed.get(), of_h);
                of.act_fusion.backward(piece, of_normed.get(), of_picked.get());
            }
            one_thread::draw_back(of_drawn + first * of.size(), moves_on ? of_picked.get() : nullptr,
                                  of_posteriors + first * of.size(), posteriors + first * of.size(),
                                  of.living + first, of.posterior_head.out.of_output_at(piece), mix, rows,
                                  of.classes, of.groups);
            of.posterior_head.backward(piece, of_normed.get(), nullptr);
            of.obs_fusion.backward(piece, of_normed.get(), of_seen.get());
            const F* of_both = of_seen.get();
            const float* of_state = of_states + first * width;
            float* into = of_embedded + first * width;
            of.each_number(t, window, rows, [=](i64 i, i64 j, float share, auto kind) {
                using T = decltype(kind);
                store(into + i, load<T>(of_both + j));
                const T of_all = load<T>(of_h + i) + load<T>(of_state + i) + load<T>(of_both + j + width);
                store<T>(of_after + i, share * of_all);
            });
        }
    });
}

// The states (N, n, width) after states h, latents and actions, whose classes are given. Each thread has places
// of its own in rooms.
void advance(const i64* list) {
    Given given{list};
    const Extent extent(given);
    const Fusion<Picks> fusion(given);
    const Cell cell(given);
    const float* h = given;
    const std::int16_t *latents = given, *actions = given;
    float* after = given;
    const i64 largest = (extent.windows + extent.pieces - 1) / extent.pieces * extent.agents;
    extent.each_piece([=, &extent, &fusion, &cell](i64 window, i64 rows) {
        const Piece piece{omp_get_thread_num() * largest, rows, window, extent.agents};
        const i64 first = window * extent.agents;
        fusion.forward(piece, cell.of_input.input_at(piece), latents + first * fusion.project.groups,
                       actions + first);
        cell.forward(piece, h + first * cell.width(), after + first * cell.width());
    });
}

}  // extern "C"
