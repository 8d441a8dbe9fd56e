// Feed-forward networks, many at once: each takes some of the tokens, and their weighted results are added up.
//
// Three passes over all of them together: gate, up and SiLU; down; the sum. A token's results are added in the order of
// its own ranking, so that its bits do not depend on who else is there.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "bind.h"
#include "operations.h"
#include "pool.h"
#include "product.h"

namespace coderv2 {
namespace {

// Tokens that go through at once: what lies between the passes takes 60 KB for each.
constexpr int64_t MOST = 1024;

// One feed-forward network and the tokens it takes: places [first, first + rows) among all.
struct Network {
    Matrix gate, up, down;
    int64_t first = 0, rows = 0;
    int64_t hidden = 0;  // where its place `first` begins in the floats between the passes
};

struct Piece {  // a tile of one network's tokens
    int network;
    int64_t first;
    int rows;
};

struct Chunk {  // some blocks of one network's matrices
    int network;
    int64_t begin, end;
};

class FeedForward {
public:
    std::vector<Network> networks;
    std::vector<int32_t> token;    // of each place
    std::vector<int32_t> place;    // [T][K]: where a token's results are, in the order of its ranking; -1: not here
    std::vector<float> weight;     // [T][K]

    void run(const float* x, int64_t T, int64_t D, int64_t K, float* out) {
        prepare(x, T, D);
        gate_and_up();
        quantise_hidden();
        down(D);
        add_up(T, D, K, out);
    }

private:
    void prepare(const float* x, int64_t T, int64_t D) {
        for (Rows& rows : x_) rows.resize(0, D, FORMATS[F32]);
        for (const Network& network : networks)
            for (const Matrix* matrix : {&network.gate, &network.up}) x_for(*matrix).resize(T, D, matrix->format());
        parallel((T + 7) / 8, [&](int64_t task, int) {
            for (int64_t t = 8 * task; t < std::min(T, 8 * task + 8); ++t)
                for (Rows& rows : x_)
                    if (rows.count()) rows.fill(t, x + t * D);
        });
        pieces_.clear();
        int64_t floats = 0;
        for (size_t n = 0; n < networks.size(); ++n) {
            Network& network = networks[n];
            network.hidden = floats;
            floats += network.rows * network.gate.rows;
            int64_t at = network.first;
            for (int rows : tile_sizes(network.rows, {network.gate.code, network.up.code, network.down.code})) {
                pieces_.push_back({static_cast<int>(n), at, rows});
                at += rows;
            }
        }
        hidden_.resize(floats);
        for (auto* tiles : {&gate_tiles_, &up_tiles_, &down_tiles_})
            if (tiles->size() < pieces_.size()) tiles->resize(pieces_.size());
        parallel(static_cast<int64_t>(pieces_.size()), [&](int64_t i, int) {
            const Piece& piece = pieces_[i];
            const Network& network = networks[piece.network];
            const int32_t* ids = token.data() + piece.first;
            gate_tiles_[i].gather(x_for(network.gate), ids, piece.rows, network.gate.format());
            if (network.up.code != network.gate.code)
                up_tiles_[i].gather(x_for(network.up), ids, piece.rows, network.up.format());
        });
    }

    std::vector<Chunk> chunks(const Matrix Network::* matrix) const {
        std::vector<Chunk> all;
        for (size_t n = 0; n < networks.size(); ++n) {
            const int64_t blocks = (networks[n].*matrix).blocks();
            for (int64_t b = 0; b < blocks; b += 8) all.push_back({static_cast<int>(n), b, std::min(blocks, b + 8)});
        }
        return all;
    }

    // Where the pieces of each network begin.
    std::vector<size_t> piece_starts() const {
        std::vector<size_t> starts(networks.size() + 1, pieces_.size());
        for (size_t i = pieces_.size(); i-- > 0;) starts[pieces_[i].network] = i;
        return starts;
    }

    void gate_and_up() {
        const auto work = chunks(&Network::gate);
        const auto starts = piece_starts();
        parallel(static_cast<int64_t>(work.size()), [&](int64_t task, int) {
            const auto [n, begin, end] = work[task];
            const Network& network = networks[n];
            const int64_t F = network.gate.rows;
            const Tile* tiles = gate_tiles_.data() + starts[n];
            const Tile* other_tiles = network.up.code == network.gate.code ? tiles : up_tiles_.data() + starts[n];
            const int64_t count = static_cast<int64_t>(starts[n + 1] - starts[n]);
            const Product gate(network.gate, tiles, count), up(network.up, other_tiles, count);
            thread_local std::vector<float> gated, upped;
            gated.resize(network.rows * BLOCKS * ROWS);
            upped.resize(network.rows * BLOCKS * ROWS);
            for (int64_t block = begin; block < end; block += BLOCKS) {
                const int blocks = static_cast<int>(std::min<int64_t>(BLOCKS, end - block));
                gate.times(block, blocks, gated.data());
                up.times(block, blocks, upped.data());
                for (int64_t i = 0; i < network.rows * blocks * ROWS; i += 16)
                    store(&upped[i], times(silu(load(&gated[i])), load(&upped[i])));
                const int64_t width = std::min<int64_t>(ROWS * blocks, F - block * ROWS);
                for (int64_t row = 0; row < network.rows; ++row)
                    std::memcpy(&hidden_[network.hidden + row * F + block * ROWS], &upped[row * ROWS * blocks],
                                width * sizeof(float));
            }
        });
    }

    void quantise_hidden() {
        // One set of rows for each width, so that networks of different widths stand side by side.
        hidden_rows_.resize(networks.size());
        for (size_t n = 0; n < networks.size(); ++n)
            hidden_rows_[n].resize(networks[n].rows, networks[n].down.columns, networks[n].down.format());
        parallel(static_cast<int64_t>(pieces_.size()), [&](int64_t i, int) {
            const Piece& piece = pieces_[i];
            const Network& network = networks[piece.network];
            int32_t ids[TALL];
            for (int m = 0; m < piece.rows; ++m) {
                const int64_t row = piece.first - network.first + m;
                ids[m] = static_cast<int32_t>(row);
                hidden_rows_[piece.network].fill(row, &hidden_[network.hidden + row * network.gate.rows]);
            }
            down_tiles_[i].gather(hidden_rows_[piece.network], ids, piece.rows, network.down.format());
        });
    }

    void down(int64_t D) {
        results_.resize(static_cast<int64_t>(token.size()) * D);
        const auto work = chunks(&Network::down);
        const auto starts = piece_starts();
        parallel(static_cast<int64_t>(work.size()), [&](int64_t task, int) {
            const auto [n, begin, end] = work[task];
            const Network& network = networks[n];
            const Product product(network.down, down_tiles_.data() + starts[n],
                                  static_cast<int64_t>(starts[n + 1] - starts[n]));
            thread_local std::vector<float> results;
            results.resize(network.rows * BLOCKS * ROWS);
            for (int64_t block = begin; block < end; block += BLOCKS) {
                const int blocks = static_cast<int>(std::min<int64_t>(BLOCKS, end - block));
                product.times(block, blocks, results.data());
                const int64_t width = std::min<int64_t>(ROWS * blocks, D - block * ROWS);
                for (int64_t row = 0; row < network.rows; ++row)
                    std::memcpy(&results_[(network.first + row) * D + block * ROWS], &results[row * ROWS * blocks],
                                width * sizeof(float));
            }
        });
    }

    void add_up(int64_t T, int64_t D, int64_t K, float* out) {
        parallel((T + 15) / 16, [&](int64_t task, int) {
            for (int64_t t = 16 * task; t < std::min(T, 16 * task + 16); ++t) {
                float* sum = out + t * D;
                bool begun = false;
                for (int64_t k = 0; k < K; ++k) {
                    if (place[t * K + k] < 0) continue;
                    const float* result = &results_[static_cast<int64_t>(place[t * K + k]) * D];
                    const float w = weight[t * K + k];
                    for (int64_t d = 0; d < D; ++d) sum[d] = begun ? sum[d] + w * result[d] : w * result[d];
                    begun = true;
                }
                if (!begun) std::fill(sum, sum + D, 0.0f);
            }
        });
    }

    // The tokens in each form that some network's format wants.
    Rows& x_for(const Matrix& matrix) {
        const Format& format = matrix.format();
        return x_[format.quantised() ? (format.span() == GROUP) : format.bits == 16 ? 2 : 3];
    }

    Rows x_[4];
    std::vector<Piece> pieces_;
    std::vector<Tile> gate_tiles_, up_tiles_, down_tiles_;
    std::vector<float> hidden_, results_;
    std::vector<Rows> hidden_rows_;
};

FeedForward& scratch() {
    thread_local FeedForward mine;
    return mine;
}

Matrix matrix(const Given& given, int64_t index) {
    const auto [code, data, rows, columns] = given;
    return {code, at<const uint8_t>(data) + index * FORMATS[code].bytes(rows, columns), rows, columns};
}

Network network(const std::vector<Given>& gate_up_down, int64_t index, int64_t first, int64_t rows) {
    return {matrix(gate_up_down[0], index), matrix(gate_up_down[1], index), matrix(gate_up_down[2], index), first, rows};
}

// Tokens sorted by expert, those of the shared network (which takes all) last. An expert below 0 is computed elsewhere.
void distribute(FeedForward& all, int64_t T, int64_t K, int64_t E, const float* weights, const int64_t* experts,
           const std::vector<Given>& routed, const std::vector<Given>& shared) {
    const int64_t all_k = K + (shared.empty() ? 0 : 1);
    std::vector<int32_t> starts(E + 1);
    for (int64_t i = 0; i < T * K; ++i) {
        if (experts[i] >= E)
            throw std::out_of_range("expert " + std::to_string(experts[i]) + " of " + std::to_string(E));
        if (experts[i] >= 0) ++starts[experts[i] + 1];
    }
    for (int64_t e = 0; e < E; ++e) starts[e + 1] += starts[e];
    all.networks.clear();
    for (int64_t e = 0; e < E; ++e)
        if (starts[e + 1] > starts[e])
            all.networks.push_back(network(routed, e, starts[e], starts[e + 1] - starts[e]));
    const int64_t own = starts[E];
    if (!shared.empty()) all.networks.push_back(network(shared, 0, own, T));
    all.token.resize(own + (shared.empty() ? 0 : T));
    all.place.resize(T * all_k);
    all.weight.resize(T * all_k);
    for (int64_t t = 0; t < T; ++t) {
        for (int64_t k = 0; k < all_k; ++k) {
            const bool is_shared = k == K;
            const bool is_here = is_shared || experts[t * K + k] >= 0;
            const int32_t place = is_shared ? static_cast<int32_t>(own + t) : is_here ? starts[experts[t * K + k]]++ : -1;
            if (is_here) all.token[place] = static_cast<int32_t>(t);
            all.place[t * all_k + k] = place;
            all.weight[t * all_k + k] = is_shared ? 1.0f : weights[t * K + k];
        }
    }
}

}  // namespace

// x [T, D], weights and experts [T, K], out [T, D]; `routed` are stacks of E; `shared` may be empty. A token with nobody
// here gets zeros.
void experts(uintptr_t x_at, int64_t T, int64_t D, uintptr_t weights_at, uintptr_t experts_at, int64_t K, int64_t E,
             const std::vector<Given>& routed, const std::vector<Given>& shared, uintptr_t out_at) {
    FeedForward& all = scratch();
    for (int64_t first = 0; first < T; first += MOST) {
        const int64_t count = std::min(MOST, T - first);
        distribute(all, count, K, E, at<const float>(weights_at) + first * K, at<const int64_t>(experts_at) + first * K, routed,
              shared);
        all.run(at<const float>(x_at) + first * D, count, D, K + (shared.empty() ? 0 : 1), at<float>(out_at) + first * D);
    }
}

void bind_experts(nanobind::module_& m) { m.def("experts", &experts, Unlocked()); }

}  // namespace coderv2
