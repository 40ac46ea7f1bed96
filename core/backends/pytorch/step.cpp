// Blocks of a Llama-like transformer for few rows, on the processor: a block is one call, not hundreds of operators.
//
// Built and called by native.py, which describes the structures. Activations and everything between the matrices are
// fp32. Weights and the cache of keys and values are fp32 or bf16 and are read where PyTorch has them, (out, in) and
// (batch, heads, capacity, width) row by row. A row's result does not depend on how many rows come with it.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>
#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int64_t W = 16;
#elif defined(__AVX__)
constexpr int64_t W = 8;
#else
constexpr int64_t W = 4;
#endif

typedef float V __attribute__((vector_size(W * 4)));
typedef uint32_t U __attribute__((vector_size(W * 4)));
typedef int32_t I __attribute__((vector_size(W * 4)));
typedef uint16_t H __attribute__((vector_size(W * 2)));

struct bf16 {
    uint16_t bits;
};

inline V load(const float* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

inline V load(const bf16* p) {
    H h;
    std::memcpy(&h, p, sizeof h);
    return (V)(__builtin_convertvector(h, U) << 16);
}

inline void store(float* p, V v) { std::memcpy(p, &v, sizeof v); }

inline float value(float x) { return x; }

inline float value(bf16 x) {
    uint32_t u = (uint32_t)x.bits << 16;
    float f;
    std::memcpy(&f, &u, sizeof f);
    return f;
}

inline void put(float* p, float x) { *p = x; }

inline void put(bf16* p, float x) {  // to the nearest, ties to even
    uint32_t u;
    std::memcpy(&u, &x, sizeof u);
    p->bits = (x != x) ? 0x7fc0 : (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

template <int64_t N> inline float halved(const float* p) {
    typedef float P __attribute__((vector_size(N * 2)));
    P a, b;
    std::memcpy(&a, p, sizeof a);
    std::memcpy(&b, p + N / 2, sizeof b);
    a += b;
    float half[N / 2];
    std::memcpy(half, &a, sizeof a);
    return halved<N / 2>(half);
}
template <> inline float halved<2>(const float* p) { return p[0] + p[1]; }

inline float total(V v) {
    float all[W];
    store(all, v);
    return halved<W>(all);
}

// The sums of four.
inline void totals(V a, V b, V c, V d, float* to) {
#if defined(__AVX__)
#if defined(__AVX512F__)
    typedef float P __attribute__((vector_size(32)));
    const auto half = [](V v) {
        P both[2];
        std::memcpy(both, &v, sizeof v);
        return (__m256)(both[0] + both[1]);
    };
    const __m256 ab = _mm256_hadd_ps(half(a), half(b)), cd = _mm256_hadd_ps(half(c), half(d));
#else
    const __m256 ab = _mm256_hadd_ps((__m256)a, (__m256)b), cd = _mm256_hadd_ps((__m256)c, (__m256)d);
#endif
    const __m256 all = _mm256_hadd_ps(ab, cd);
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
#else
    to[0] = total(a), to[1] = total(b), to[2] = total(c), to[3] = total(d);
#endif
}

// e^x to fp32's precision (Cephes, expf); 0 below -87.
inline V exponential(V x) {
    const V zero = {};
    const I gone = x < -87.0f;
    x = (x > 88.0f) ? zero + 88.0f : x;
    const V n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    const V f = x - n * 0.693359375f + n * 2.12194440e-4f;
    V y = f * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * f + 8.3334519073e-3f;
    y = y * f + 4.1665795894e-2f;
    y = y * f + 1.6666665459e-1f;
    y = y * f + 5.0000001201e-1f;
    y = y * f * f + f + 1.0f;
    y *= (V)((__builtin_convertvector(n, I) + 127) << 23);
    return gone ? zero : y;
}

// ---------------------------------------------------------------- products

// Keeps a value in a register, where the compiler would read it from memory at every use.
inline V held(V v) {
#if defined(__x86_64__) && defined(__AVX__)
    asm("" : "+v"(v));
#endif
    return v;
}

// y[r][o] (+)= x[r] . w[o] (+ bias[o]) for O outputs and R rows, whose sums stay in registers.
template <class T, int O, int R>
inline void tile(const float* x, int64_t ldx, const T* w, int64_t k, float* y, int64_t ldy, const float* bias, bool add) {
    V sums[O * R];
#pragma GCC unroll 16
    for (int j = 0; j < O * R; j++) sums[j] = V{};
    int64_t i = 0;
    for (; i + W <= k; i += W) {
        V ws[O];
#pragma GCC unroll 16
        for (int o = 0; o < O; o++) ws[o] = held(load(w + o * k + i));
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            const V xs = load(x + r * ldx + i);
#pragma GCC unroll 16
            for (int o = 0; o < O; o++) sums[o * R + r] += ws[o] * xs;
        }
    }
    float of[(O * R + 3) / 4 * 4];
#pragma GCC unroll 16
    for (int j = 0; j < O * R; j += 4)
        totals(sums[j], j + 1 < O * R ? sums[j + 1] : V{}, j + 2 < O * R ? sums[j + 2] : V{},
               j + 3 < O * R ? sums[j + 3] : V{}, of + j);
    for (; i < k; i++)
        for (int o = 0; o < O; o++)
            for (int r = 0; r < R; r++) of[o * R + r] += x[r * ldx + i] * value(w[o * k + i]);
#pragma GCC unroll 16
    for (int o = 0; o < O; o++)
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            float* to = y + r * ldy + o;
            const float s = bias ? of[o * R + r] + bias[o] : of[o * R + r];
            *to = add ? *to + s : s;
        }
}

template <class T, int O>
inline void band(const float* x, int64_t ldx, int64_t rows, const T* w, int64_t k, float* y, int64_t ldy,
                 const float* bias, bool add) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) tile<T, O, 4>(x + r * ldx, ldx, w, k, y + r * ldy, ldy, bias, add);
    switch (rows - r) {
        case 3: tile<T, O, 3>(x + r * ldx, ldx, w, k, y + r * ldy, ldy, bias, add); break;
        case 2: tile<T, O, 2>(x + r * ldx, ldx, w, k, y + r * ldy, ldy, bias, add); break;
        case 1: tile<T, O, 1>(x + r * ldx, ldx, w, k, y + r * ldy, ldy, bias, add); break;
        default: break;
    }
}

// The outputs lo to hi of a product: y[r][o] (+)= x[r] . w[o] (+ bias[o]).
template <class T>
void product(const float* x, int64_t ldx, int64_t rows, const T* w, int64_t k, int64_t lo, int64_t hi, float* y,
             int64_t ldy, const float* bias, bool add) {
    constexpr int64_t O = 3;
    int64_t o = lo;
    if (rows == 1) {
        for (; o + 4 <= hi; o += 4) tile<T, 4, 1>(x, ldx, w + o * k, k, y + o, ldy, bias ? bias + o : nullptr, add);
    } else {
        for (; o + O <= hi; o += O)
            band<T, O>(x, ldx, rows, w + o * k, k, y + o, ldy, bias ? bias + o : nullptr, add);
    }
    for (; o < hi; o++) band<T, 1>(x, ldx, rows, w + o * k, k, y + o, ldy, bias ? bias + o : nullptr, add);
}

inline int64_t part(int64_t n, int64_t i, int64_t of, int64_t step) {
    return i == of ? n : n * i / of / step * step;
}

}  // namespace

// ---------------------------------------------------------------- what native.py describes

extern "C" {

struct Shape {
    int64_t d, n_q, n_kv, d_head, d_ff, rotated;
    int32_t half;      // weights and cache: 0 fp32, 1 bf16
    int32_t centred;   // norms take the mean off
    int32_t gelu;      // gate: 0 silu, 1 gelu in its tanh form
    int32_t per_head;  // norms of queries and keys: 1 of each head, 0 of all heads together
    float eps, scale;
};

// Norms and biases are fp32. A norm that is not there has its bit in `norms` clear; one without weights is null.
struct Block {
    const void *q, *k, *v, *o, *gate, *up, *down;
    const float *q_bias, *k_bias, *v_bias, *o_bias, *gate_bias, *up_bias, *down_bias;
    const float *before, *between, *after_attention, *after_mlp, *q_norm, *k_norm;
    int32_t norms;  // 1 before, 2 between, 4 after attention, 8 after the MLP, 16 of queries and keys
    int32_t rope;
};

struct Kept {
    void *keys, *values;
    int64_t capacity;
};

struct Call {
    int64_t batch, n, n_past, threads;
    float* hidden;           // (batch, n, d), taken and given back
    const float *cos, *sin;  // (n, rotated)
    const float* mask;       // (n, n_past + n), added; null: each sees what is before it
    float* scratch;
};

int64_t scratch_floats(const Shape* s, int64_t batch, int64_t n, int64_t n_past, int64_t threads) {
    const int64_t rows = batch * n;
    return rows * (s->d + (s->n_q + 2 * s->n_kv) * s->d_head + s->n_q * s->d_head + 2 * s->d_ff) +
           threads * 4 * (n_past + n);
}
}

namespace {

void norm(const Shape& s, const float* x, const float* weight, float* y, int64_t d) {
    float mean = 0;
    if (s.centred) {
        for (int64_t i = 0; i < d; i++) mean += x[i];
        mean /= (float)d;
    }
    V squares = {};
    int64_t i = 0;
    for (; i + W <= d; i += W) {
        const V v = load(x + i) - mean;
        squares += v * v;
    }
    float sum = total(squares);
    for (; i < d; i++) sum += (x[i] - mean) * (x[i] - mean);
    const float factor = 1.0f / std::sqrt(sum / (float)d + s.eps);
    for (i = 0; i < d; i++) y[i] = (x[i] - mean) * factor * (weight ? weight[i] : 1.0f);
}

void rotate(const Shape& s, float* x, const float* cos, const float* sin) {
    const int64_t half = s.rotated / 2;
    for (int64_t i = 0; i < half; i++) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i] + a * sin[i];
    }
}

template <class T> void keep(T* to, const float* x, int64_t d) {
    for (int64_t i = 0; i < d; i++) put(to + i, x[i]);
}

void gated(const Shape& s, float* gate, const float* up, int64_t n) {
    int64_t i = 0;
    float last[W], beside[W];
    for (; i < n; i += W) {
        const int64_t left = std::min(W, n - i);
        V x, u;
        if (left == W) {
            x = load(gate + i);
            u = load(up + i);
        } else {
            std::memset(last, 0, sizeof last);
            std::memset(beside, 0, sizeof beside);
            std::memcpy(last, gate + i, left * sizeof(float));
            std::memcpy(beside, up + i, left * sizeof(float));
            x = load(last);
            u = load(beside);
        }
        const V inner = s.gelu ? 1.5957691216f * (x + 0.044715f * x * x * x) : x;
        const V y = x / (1.0f + exponential(-inner)) * u;
        if (left == W) {
            store(gate + i, y);
        } else {
            store(last, y);
            std::memcpy(gate + i, last, left * sizeof(float));
        }
    }
}

// One head of up to four rows: scores, softmax, and the sum of the values. seen: of each row how many positions.
template <class T>
void attend(const Shape& s, const float* q, int64_t ldq, int64_t rows, const T* keys, const T* values,
            const int64_t* seen, const float* mask, int64_t ldm, float* scores, int64_t lds, float* out, int64_t ldo) {
    const int64_t d = s.d_head;
    product<T>(q, ldq, rows, keys, d, 0, seen[rows - 1], scores, lds, nullptr, false);
    for (int64_t r = 0; r < rows; r++) {
        float* p = scores + r * lds;
        const int64_t n = seen[r];
        if (mask)
            for (int64_t i = 0; i < n; i++) p[i] += mask[r * ldm + i];
        V largest = V{} + p[0];
        int64_t i = 0;
        for (; i + W <= n; i += W) {
            const V v = load(p + i);
            largest = v > largest ? v : largest;
        }
        float most = p[0], of_lanes[W];
        store(of_lanes, largest);
        for (int64_t j = 0; j < W; j++) most = std::max(most, of_lanes[j]);
        for (; i < n; i++) most = std::max(most, p[i]);
        V sums = {};
        for (i = 0; i + W <= n; i += W) {
            const V e = exponential(load(p + i) - most);
            store(p + i, e);
            sums += e;
        }
        float sum = total(sums);
        if (i < n) {
            float last[W];
            for (int64_t j = 0; j < W; j++) last[j] = i + j < n ? p[i + j] - most : -100.0f;
            store(last, exponential(load(last)));
            for (int64_t j = 0; i + j < n; j++) {
                p[i + j] = last[j];
                sum += last[j];
            }
        }
        const float share = 1.0f / sum;
        float* to = out + r * ldo;
        int64_t c = 0;
        for (; c + 4 * W <= d; c += 4 * W) {
            V a[4] = {};
            for (int64_t j = 0; j < n; j++) {
                const T* v = values + j * d + c;
#pragma GCC unroll 4
                for (int u = 0; u < 4; u++) a[u] += load(v + u * W) * p[j];
            }
#pragma GCC unroll 4
            for (int u = 0; u < 4; u++) store(to + c + u * W, a[u] * share);
        }
        for (; c + W <= d; c += W) {
            V a = {};
            for (int64_t j = 0; j < n; j++) a += load(values + j * d + c) * p[j];
            store(to + c, a * share);
        }
        for (; c < d; c++) {
            float a = 0;
            for (int64_t j = 0; j < n; j++) a += value(values[j * d + c]) * p[j];
            to[c] = a * share;
        }
    }
}

template <class T> void blocks_of(const Shape& s, const Block* blocks, const Kept* kept, int64_t n_blocks, const Call& c) {
    const int64_t rows = c.batch * c.n, d = s.d, heads = s.n_q + 2 * s.n_kv, wide = heads * s.d_head;
    const int64_t q_wide = s.n_q * s.d_head, kv_wide = s.n_kv * s.d_head, context = c.n_past + c.n;
    float *normed = c.scratch, *qkv = normed + rows * d, *seen = qkv + rows * wide, *gate = seen + rows * q_wide,
          *up = gate + rows * s.d_ff, *scores = up + rows * s.d_ff;
    const int64_t groups = (c.n + 3) / 4;

#pragma omp parallel num_threads((int)c.threads)
    {
        const int64_t t = omp_get_thread_num(), of = omp_get_num_threads();
        const int64_t first = rows * t / of, last = rows * (t + 1) / of;
        const auto normalize = [&](const float* weight, const float* from, float* to, bool add) {
            for (int64_t r = first; r < last; r++) {
                if (add) {
                    float* row = (float*)from + r * d;  // a scratch row
                    norm(s, row, weight, row, d);
                    for (int64_t i = 0; i < d; i++) to[r * d + i] += row[i];
                } else {
                    norm(s, from + r * d, weight, to + r * d, d);
                }
            }
        };
        const auto multiply = [&](const void* w, const float* bias, const float* x, int64_t k, int64_t n_out, float* y,
                                  int64_t ldy, bool add) {
            product<T>(x, k, rows, (const T*)w, k, part(n_out, t, of, 12), part(n_out, t + 1, of, 12), y, ldy, bias, add);
        };
        for (int64_t b = 0; b < n_blocks; b++) {
            const Block& block = blocks[b];
            const float* x = c.hidden;
            if (block.norms & 1) {
                normalize(block.before, c.hidden, normed, false);
                x = normed;
#pragma omp barrier
            }
            multiply(block.q, block.q_bias, x, d, q_wide, qkv, wide, false);
            multiply(block.k, block.k_bias, x, d, kv_wide, qkv + q_wide, wide, false);
            multiply(block.v, block.v_bias, x, d, kv_wide, qkv + q_wide + kv_wide, wide, false);
#pragma omp barrier
            if ((block.norms & 16) && !s.per_head) {
                for (int64_t r = first; r < last; r++) {
                    float* row = qkv + r * wide;
                    norm(s, row, block.q_norm, row, q_wide);
                    norm(s, row + q_wide, block.k_norm, row + q_wide, kv_wide);
                }
#pragma omp barrier
            }
            const int64_t capacity = kept[b].capacity;
            T *keys = (T*)kept[b].keys, *values = (T*)kept[b].values;
            for (int64_t i = rows * heads * t / of; i < rows * heads * (t + 1) / of; i++) {
                const int64_t r = i / heads, h = i % heads, sequence = r / c.n, place = r % c.n;
                float* head = qkv + r * wide + h * s.d_head;
                if (h < s.n_q + s.n_kv) {
                    if ((block.norms & 16) && s.per_head)
                        norm(s, head, h < s.n_q ? block.q_norm : block.k_norm, head, s.d_head);
                    if (block.rope) rotate(s, head, c.cos + place * s.rotated, c.sin + place * s.rotated);
                }
                if (h < s.n_q) {
                    for (int64_t j = 0; j < s.d_head; j++) head[j] *= s.scale;
                } else {
                    const bool key = h < s.n_q + s.n_kv;
                    const int64_t kv = h - s.n_q - (key ? 0 : s.n_kv);
                    T* to = (key ? keys : values) + ((sequence * s.n_kv + kv) * capacity + c.n_past + place) * s.d_head;
                    keep(to, head, s.d_head);
                }
            }
#pragma omp barrier
            const int64_t items = c.batch * s.n_q * groups;
            for (int64_t i = items * t / of; i < items * (t + 1) / of; i++) {
                const int64_t group = i % groups, h = i / groups % s.n_q, sequence = i / groups / s.n_q;
                const int64_t place = group * 4, n = std::min<int64_t>(4, c.n - place), r = sequence * c.n + place;
                const int64_t kv = (sequence * s.n_kv + h / (s.n_q / s.n_kv)) * capacity * s.d_head;
                int64_t sees[4];
                for (int64_t j = 0; j < n; j++) sees[j] = c.mask ? context : c.n_past + place + j + 1;
                attend<T>(s, qkv + r * wide + h * s.d_head, wide, n, keys + kv, values + kv, sees,
                          c.mask ? c.mask + place * context : nullptr, context, scores + t * 4 * context, context,
                          seen + r * q_wide + h * s.d_head, q_wide);
            }
#pragma omp barrier
            if (block.norms & 4) {
                multiply(block.o, block.o_bias, seen, q_wide, d, normed, d, false);
#pragma omp barrier
                normalize(block.after_attention, normed, c.hidden, true);
            } else {
                multiply(block.o, block.o_bias, seen, q_wide, d, c.hidden, d, true);
            }
#pragma omp barrier
            x = c.hidden;
            if (block.norms & 2) {
                normalize(block.between, c.hidden, normed, false);
                x = normed;
#pragma omp barrier
            }
            multiply(block.gate, block.gate_bias, x, d, s.d_ff, gate, s.d_ff, false);
            multiply(block.up, block.up_bias, x, d, s.d_ff, up, s.d_ff, false);
            const int64_t lo = part(s.d_ff, t, of, 12), hi = part(s.d_ff, t + 1, of, 12);
            for (int64_t r = 0; r < rows; r++) gated(s, gate + r * s.d_ff + lo, up + r * s.d_ff + lo, hi - lo);
#pragma omp barrier
            if (block.norms & 8) {
                multiply(block.down, block.down_bias, gate, s.d_ff, d, normed, d, false);
#pragma omp barrier
                normalize(block.after_mlp, normed, c.hidden, true);
            } else {
                multiply(block.down, block.down_bias, gate, s.d_ff, d, c.hidden, d, true);
            }
#pragma omp barrier
        }
    }
}

template <class T>
void product_of(const float* x, int64_t rows, int64_t k, const T* w, const float* bias, int64_t n_out, float* y,
                int64_t ldy, int64_t threads) {
#pragma omp parallel num_threads((int)threads)
    {
        const int64_t t = omp_get_thread_num(), of = omp_get_num_threads();
        product<T>(x, k, rows, w, k, part(n_out, t, of, 12), part(n_out, t + 1, of, 12), y, ldy, bias, false);
    }
}

}  // namespace

extern "C" {

void run_blocks(const Shape* s, const Block* blocks, const Kept* kept, int64_t n_blocks, const Call* c) {
    if (s->half)
        blocks_of<bf16>(*s, blocks, kept, n_blocks, *c);
    else
        blocks_of<float>(*s, blocks, kept, n_blocks, *c);
}

// y (rows, ldy) = x (rows, k) w^T + bias, w (n_out, k)
void run_product(int32_t half, const float* x, int64_t rows, int64_t k, const void* w, const float* bias, int64_t n_out,
                 float* y, int64_t ldy, int64_t threads) {
    if (half)
        product_of<bf16>(x, rows, k, (const bf16*)w, bias, n_out, y, ldy, threads);
    else
        product_of<float>(x, rows, k, (const float*)w, bias, n_out, y, ldy, threads);
}
}
