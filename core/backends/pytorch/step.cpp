// Blocks of a Llama-like transformer for few rows, on the processor: a block is one call, not hundreds of operators.
//
// Built and called by native.py, which describes the structures. Activations and everything between the matrices are
// fp32. Weights and the cache of keys and values are fp32 or bf16 and are read where PyTorch has them, (out, in) and
// (batch, heads, capacity, width) row by row. Weights may also be integers in groups, laid out by grouped.py; then the
// cache is fp32. A row's result does not depend on how many rows come with it.
// Compiled with GROUPED for integers in groups and without it for the rest: each is ready in seconds when it is needed.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>
#include <vector>
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

// ---------------------------------------------------------------- products of integers in groups

// A matrix is panels of P outputs one behind the other, a panel its groups of G inputs, a group one of these structures.
// Rows and columns that fill the last panel and group up are zero.
constexpr int64_t G = 32, P = 8;
constexpr int64_t BAND = 16;  // rows for which a group is unpacked once
constexpr int64_t LINE = 64;  // bytes of a cache line

struct Q8 {  // w = scale * q, fp16 and int8
    uint16_t scale[P];
    int8_t q[G / 2][P][2];  // inputs in pairs
    typedef int16_t Input;
    static constexpr float largest = 32767;
    static constexpr bool lifted = false;
};

struct Q4 {  // w = scale * q + least, fp16 and 0 to 15
    uint16_t scale[P], least[P];
    uint8_t q[G / 8][P][4];  // eight inputs: the first four in the low halves, the next four in the high ones
    typedef int8_t Input;
    static constexpr float largest = 127;
    static constexpr bool lifted = true;
};

static_assert(sizeof(Q8) == 272 && sizeof(Q4) == 160, "as grouped.py lays them out");

template <class M> constexpr bool grouped = false;
template <> constexpr bool grouped<Q8> = true;
template <> constexpr bool grouped<Q4> = true;

inline int64_t groups_of(int64_t k) { return (k + G - 1) / G; }

// Rows of inputs as integers: x = scale * q in each group. They lie group by group, in a group row by row, because a group
// of weights is unpacked once for many rows. sums: scale times the sum of q.
struct Inputs {
    void* q;
    float *scale, *sums;
    int64_t rows;
};

constexpr int64_t input_floats(int64_t k) { return (k + G - 1) / G * (G / 2 + 2); }

inline Inputs inputs_in(float* place, int64_t rows, int64_t k) {
    const int64_t n = rows * groups_of(k);
    return {place + 2 * n, place, place + n, rows};
}

// The groups first to last of row r.
template <class M>
inline void quantize(const Inputs& to, int64_t r, const float* x, int64_t k, int64_t first, int64_t last) {
    typedef typename M::Input N;
    const V turn = V{} + 12582912.0f;  // rounds to the nearest, ties to even, and leaves the integer in the low bits
    for (int64_t g = first; g < last; g++) {
        float padded[G];
        const float* from = x + g * G;
        if ((g + 1) * G > k) {
            std::memset(padded, 0, sizeof padded);
            std::memcpy(padded, from, (k - g * G) * sizeof(float));
            from = padded;
        }
        V peaks = {};
        for (int64_t i = 0; i < G; i += W) {
            const V v = load(from + i), a = v < 0.0f ? -v : v;
            peaks = a > peaks ? a : peaks;
        }
        float of[W], peak = 0;
        store(of, peaks);
        for (int64_t j = 0; j < W; j++) peak = std::max(peak, of[j]);
        const float factor = peak > 1e-30f ? M::largest / peak : 0.0f;
        int32_t rounded[G];
        for (int64_t i = 0; i < G; i += W) {
            const V v = load(from + i) * factor + turn;
            const I whole = (I)v - (I)turn;
            std::memcpy(rounded + i, &whole, sizeof whole);
        }
        const int64_t at = g * to.rows + r;
        N* q = (N*)to.q + at * G;
        int32_t sum = 0;
        for (int64_t i = 0; i < G; i++) q[i] = (N)rounded[i], sum += rounded[i];
        const float scale = peak > 1e-30f ? peak / M::largest : 0.0f;
        to.scale[at] = scale;
        to.sums[at] = scale * (float)sum;
    }
}

inline float of_half(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, rest = h & 1023;
    if (exponent == 0) return (sign ? -1.0f : 1.0f) * (float)rest / 16777216.0f;
    const uint32_t u = sign | (exponent == 31 ? 255u << 23 : (exponent + 112) << 23) | rest << 13;
    float f;
    std::memcpy(&f, &u, sizeof f);
    return f;
}

inline int32_t four_bytes(const void* p) {
    int32_t i;
    std::memcpy(&i, p, sizeof i);
    return i;
}

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

inline __m256 eight(const uint16_t* h) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)h)); }

// Integers of eight outputs, a vector for every 32 bits of a row's inputs; and sums of their products with those.
template <class M> constexpr int steps = G * sizeof(typename M::Input) / 4;

inline void unpack(const Q8& w, __m256i* to) {
#pragma GCC unroll 16
    for (int i = 0; i < G / 2; i++) to[i] = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)w.q[i]));
}

inline void unpack(const Q4& w, __m256i* to) {
    const __m256i low = _mm256_set1_epi8(15);
#pragma GCC unroll 4
    for (int i = 0; i < G / 8; i++) {
        const __m256i both = _mm256_loadu_si256((const __m256i*)w.q[i]);
        to[2 * i] = _mm256_and_si256(both, low);
        to[2 * i + 1] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
    }
}

// Two products of int16. Product and sum in one, for compilers keep many products before they add them up.
inline __m256i products(const Q8*, __m256i sum, __m256i w, __m256i x) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    return _mm256_dpwssd_epi32(sum, w, x);
#elif defined(__AVXVNNI__)
    return _mm256_dpwssd_avx_epi32(sum, w, x);
#else
    __m256i t;
    asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(t) : "x"(w), "x"(x));
    return sum;
#endif
}

inline __m256i whole(const Q8*, __m256i sum) { return sum; }

// Four products, of 0 to 15 and int8: in 16 bits without VNNI, where those of a group fit (15 * 127 * 16 < 2^15).
inline __m256i products(const Q4*, __m256i sum, __m256i w, __m256i x) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    return _mm256_dpbusd_epi32(sum, w, x);
#elif defined(__AVXVNNI__)
    return _mm256_dpbusd_avx_epi32(sum, w, x);
#else
    __m256i t;
    asm("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sum), "=&x"(t) : "x"(w), "x"(x));
    return sum;
#endif
}

inline __m256i whole(const Q4*, __m256i sum) {
#if (defined(__AVX512VNNI__) && defined(__AVX512VL__)) || defined(__AVXVNNI__)
    return sum;
#else
    return _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
#endif
}

// One group of O panels, unpacked.
template <class M, int O> struct Group {
    __m256i q[steps<M>][O];
    __m256 scale[O], least[O];

    inline __attribute__((always_inline)) Group(const M* w, int64_t n_groups) {
#pragma GCC unroll 2
        for (int o = 0; o < O; o++) {
            const M& own = w[o * n_groups];
            __m256i all[steps<M>];
            unpack(own, all);
#pragma GCC unroll 16
            for (int i = 0; i < steps<M>; i++) q[i][o] = all[i];
            scale[o] = eight(own.scale);
            if constexpr (M::lifted) least[o] = eight(own.least);
        }
    }

    // Its products with R rows, added to `all`, R times O panels.
    template <int R>
    inline __attribute__((always_inline)) void times(const typename M::Input* x, const float* by, const float* sums,
                                                     float (*all)[P]) const {
        __m256i found[R * O];
#pragma GCC unroll 16
        for (int j = 0; j < R * O; j++) found[j] = _mm256_setzero_si256();
#pragma GCC unroll 1  // so that sums stay in registers and products do not
        for (int i = 0; i < steps<M>; i++) {
            __m256i ws[O];
#pragma GCC unroll 2
            for (int o = 0; o < O; o++) ws[o] = q[i][o];
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) {
                const __m256i xs = _mm256_set1_epi32(four_bytes((const char*)(x + r * G) + 4 * i));
#pragma GCC unroll 2
                for (int o = 0; o < O; o++)
                    found[r * O + o] = products((const M*)0, found[r * O + o], ws[o], xs);
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
#pragma GCC unroll 2
            for (int o = 0; o < O; o++) {
                float* to = all[r * O + o];
                __m256 sum = _mm256_load_ps(to);
                if constexpr (M::lifted) sum = _mm256_fmadd_ps(least[o], _mm256_set1_ps(sums[r]), sum);
                const __m256 factor = _mm256_mul_ps(scale[o], _mm256_set1_ps(by[r]));
                sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(whole((const M*)0, found[r * O + o])), factor, sum);
                _mm256_store_ps(to, sum);
            }
    }
};

#else

inline int32_t integer(const Q8& w, int64_t o, int64_t i) { return w.q[i / 2][o][i % 2]; }
inline int32_t integer(const Q4& w, int64_t o, int64_t i) { return (w.q[i / 8][o][i % 4] >> (i % 8 / 4 * 4)) & 15; }

template <class M, int O> struct Group {
    int32_t q[G][O * P];
    float scale[O * P], least[O * P];

    Group(const M* w, int64_t n_groups) {
        for (int64_t j = 0; j < O * P; j++) {
            const M& own = w[j / P * n_groups];
            for (int64_t i = 0; i < G; i++) q[i][j] = integer(own, j % P, i);
            scale[j] = of_half(own.scale[j % P]);
            if constexpr (M::lifted) least[j] = of_half(own.least[j % P]);
        }
    }

    template <int R>
    void times(const typename M::Input* x, const float* by, const float* sums, float (*all)[P]) const {
        for (int r = 0; r < R; r++) {
            int32_t found[O * P] = {};
            for (int64_t i = 0; i < G; i++)
                for (int64_t j = 0; j < O * P; j++) found[j] += q[i][j] * x[r * G + i];
            float* to = all[r * O];
            for (int64_t j = 0; j < O * P; j++) {
                if constexpr (M::lifted) to[j] += least[j] * sums[r];
                to[j] += (float)found[j] * (scale[j] * by[r]);
            }
        }
    }
};

#endif

// O panels with the n rows from r on, at most BAND.
template <class M, int O>
void panels(const Inputs& x, int64_t r, int64_t n, const M* w, int64_t n_groups, int64_t n_out, float* y, int64_t ldy,
            const float* bias, bool add) {
    alignas(32) float all[BAND * O][P] = {};
    for (int64_t g = 0; g < n_groups; g++) {
        // of the panels behind these, an equal part with every group: the processor's own guess ends with a page
        for (int64_t i = 0; i < O * (int64_t)sizeof(M); i += LINE)
            __builtin_prefetch((const char*)(w + O * (n_groups + g)) + i);
        const Group<M, O> group(w + g, n_groups);
        const int64_t at = g * x.rows + r;
        const auto* q = (const typename M::Input*)x.q + at * G;
        const float *by = x.scale + at, *sums = x.sums + at;
        int64_t i = 0;
        for (; i + 4 <= n; i += 4) group.template times<4>(q + i * G, by + i, sums + i, all + i * O);
        switch (n - i) {
            case 3: group.template times<3>(q + i * G, by + i, sums + i, all + i * O); break;
            case 2: group.template times<2>(q + i * G, by + i, sums + i, all + i * O); break;
            case 1: group.template times<1>(q + i * G, by + i, sums + i, all + i * O); break;
            default: break;
        }
    }
    const int64_t width = std::min<int64_t>(O * P, n_out);
    for (int64_t i = 0; i < n; i++) {
        float* to = y + (r + i) * ldy;
        const float* from = all[i * O];
        for (int64_t j = 0; j < width; j++) {
            const float s = bias ? from[j] + bias[j] : from[j];
            to[j] = add ? to[j] + s : s;
        }
    }
}

// The outputs lo to hi; lo is where a panel begins, and hi where one begins or the matrix ends.
template <class M>
void product(const Inputs& x, int64_t rows, const M* w, int64_t k, int64_t lo, int64_t hi, float* y, int64_t ldy,
             const float* bias, bool add) {
    const int64_t n_groups = groups_of(k);
    for (int64_t o = lo; o < hi; o += 2 * P)
        for (int64_t r = 0; r < rows; r += BAND) {
            const int64_t n = std::min(BAND, rows - r);
            const M* from = w + o / P * n_groups;
            const float* shift = bias ? bias + o : nullptr;
            if (o + P < hi)
                panels<M, 2>(x, r, n, from, n_groups, hi - o, y + o, ldy, shift, add);
            else
                panels<M, 1>(x, r, n, from, n_groups, hi - o, y + o, ldy, shift, add);
        }
}

inline void written(const Q8& w, int64_t lane, float* to) {
    for (int64_t i = 0; i < G; i++) to[i] = of_half(w.scale[lane]) * (float)w.q[i / 2][lane][i % 2];
}

inline void written(const Q4& w, int64_t lane, float* to) {
    for (int64_t i = 0; i < G; i++)
        to[i] = of_half(w.scale[lane]) * (float)((w.q[i / 8][lane][i % 4] >> (i % 8 / 4 * 4)) & 15) +
                of_half(w.least[lane]);
}

// Scale and least of one group for four bits: the least squares of w - scale * q - least over ranges a little narrower
// and wider than the group's own, large weights counting more, as GGUF's quantizers have it.
inline void fit(const float* x, float* scale, float* least) {
    float low = x[0], high = x[0], squares = 0, weight[G];
    for (int64_t i = 0; i < G; i++) low = std::min(low, x[i]), high = std::max(high, x[i]), squares += x[i] * x[i];
    *scale = 0, *least = low;
    if (!(high > low)) return;
    const float mean = std::sqrt(squares / G);
    for (int64_t i = 0; i < G; i++) weight[i] = mean + std::fabs(x[i]);
    float best = INFINITY;
    for (int64_t turn = 0; turn <= 20; turn++) {
        const float steps = (14.0f + 0.1f * (float)turn) / (high - low);
        float q[G], w = 0, wq = 0, wqq = 0, wx = 0, wxq = 0, error = 0;
        for (int64_t i = 0; i < G; i++) {
            q[i] = std::min(15.0f, ((x[i] - low) * steps + 12582912.0f) - 12582912.0f);
            w += weight[i], wq += weight[i] * q[i], wqq += weight[i] * q[i] * q[i];
            wx += weight[i] * x[i], wxq += weight[i] * x[i] * q[i];
        }
        const float d = w * wqq - wq * wq;
        if (!(d > 0)) continue;
        const float s = (w * wxq - wx * wq) / d, m = (wqq * wx - wq * wxq) / d;
        for (int64_t i = 0; i < G; i++) error += weight[i] * (s * q[i] + m - x[i]) * (s * q[i] + m - x[i]);
        if (error < best) best = error, *scale = s, *least = m;
    }
}

template <class M> void rows_of(const M* w, int64_t k, const int64_t* ids, int64_t n, float* to) {
    for (int64_t j = 0; j < n; j++)
        for (int64_t g = 0; g < groups_of(k); g++) {
            float all[G];
            written(w[ids[j] / P * groups_of(k) + g], ids[j] % P, all);
            std::memcpy(to + j * k + g * G, all, std::min(G, k - g * G) * sizeof(float));
        }
}

}  // namespace

// ---------------------------------------------------------------- what native.py describes

extern "C" {

struct Shape {
    int64_t d, n_q, n_kv, d_head, d_ff, rotated;
    int32_t form;      // weights and cache: 0 fp32, 1 bf16; weights in groups: 2 int8, 3 four bits
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
    const int64_t integers = input_floats(std::max(s->d, s->n_q * s->d_head)) + input_floats(s->d_ff);
    return rows * (s->d + (s->n_q + 2 * s->n_kv) * s->d_head + s->n_q * s->d_head + 2 * s->d_ff) +
           threads * 4 * (n_past + n) + (s->form > 1 ? rows * integers : 0);
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

// out[r] = share[r] * the sum of p[r][j] * values[j] over the first seen[r], for U vectors of the width at a time and then
// one. The first row sees the fewest.
template <class T, int R, int U>
int64_t mix_of(int64_t c, const float* p, int64_t ldp, const T* values, int64_t d, const int64_t* seen,
               const float* shares, float* out, int64_t ldo) {
    for (; c + U * W <= d; c += U * W) {
        V a[R * U];
#pragma GCC unroll 16
        for (int i = 0; i < R * U; i++) a[i] = V{};
        const T* v = values + c;
        for (int64_t j = 0; j < seen[0]; j++, v += d) {
            V vs[U];
#pragma GCC unroll 4
            for (int u = 0; u < U; u++) vs[u] = held(load(v + u * W));
#pragma GCC unroll 4
            for (int r = 0; r < R; r++)
#pragma GCC unroll 4
                for (int u = 0; u < U; u++) a[r * U + u] += vs[u] * p[r * ldp + j];
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            for (int64_t j = seen[0]; j < seen[r]; j++)
#pragma GCC unroll 4
                for (int u = 0; u < U; u++) a[r * U + u] += load(values + j * d + c + u * W) * p[r * ldp + j];
#pragma GCC unroll 4
            for (int u = 0; u < U; u++) store(out + r * ldo + c + u * W, a[r * U + u] * shares[r]);
        }
    }
    return c;
}

template <class T, int R, int U>
void mix(const float* p, int64_t ldp, const T* values, int64_t d, const int64_t* seen, const float* shares, float* out,
         int64_t ldo) {
    int64_t c = mix_of<T, R, U>(0, p, ldp, values, d, seen, shares, out, ldo);
    c = mix_of<T, R, 1>(c, p, ldp, values, d, seen, shares, out, ldo);
    for (; c < d; c++)
        for (int r = 0; r < R; r++) {
            float a = 0;
            for (int64_t j = 0; j < seen[r]; j++) a += value(values[j * d + c]) * p[r * ldp + j];
            out[r * ldo + c] = a * shares[r];
        }
}

// One head of up to four rows: scores, softmax, and the sum of the values. seen: of each row how many positions.
template <class T>
void attend(const Shape& s, const float* q, int64_t ldq, int64_t rows, const T* keys, const T* values,
            const int64_t* seen, const float* mask, int64_t ldm, float* scores, int64_t lds, float* out, int64_t ldo) {
    const int64_t d = s.d_head;
    float shares[4];
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
        shares[r] = 1.0f / sum;
    }
    switch (rows) {
        case 4: mix<T, 4, 2>(scores, lds, values, d, seen, shares, out, ldo); break;
        case 3: mix<T, 3, 2>(scores, lds, values, d, seen, shares, out, ldo); break;
        case 2: mix<T, 2, 4>(scores, lds, values, d, seen, shares, out, ldo); break;
        default: mix<T, 1, 4>(scores, lds, values, d, seen, shares, out, ldo); break;
    }
}

// M: of the weights. T: of the cache.
template <class M, class T>
void blocks_of(const Shape& s, const Block* blocks, const Kept* kept, int64_t n_blocks, const Call& c) {
    const int64_t rows = c.batch * c.n, d = s.d, heads = s.n_q + 2 * s.n_kv, wide = heads * s.d_head;
    const int64_t q_wide = s.n_q * s.d_head, kv_wide = s.n_kv * s.d_head, context = c.n_past + c.n;
    float *normed = c.scratch, *qkv = normed + rows * d, *seen = qkv + rows * wide, *gate = seen + rows * q_wide,
          *up = gate + rows * s.d_ff, *scores = up + rows * s.d_ff, *integers = scores + c.threads * 4 * context;
    const int64_t groups = (c.n + 3) / 4;
    constexpr int64_t step = grouped<M> ? G : 12;  // outputs of a thread are a multiple of it

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
        // What a product is given as integers: by whoever has the rows, before the others come to read them. `gate` has a
        // place of its own, because it is written while others still multiply.
        const auto ready = [&](const float* x, int64_t k) {
            if constexpr (grouped<M>)
                for (int64_t r = first; r < last; r++)
                    quantize<M>(inputs_in(integers, rows, k), r, x + r * k, k, 0, groups_of(k));
        };
        const auto multiply = [&](const void* w, const float* bias, const float* x, int64_t k, int64_t n_out, float* y,
                                  int64_t ldy, bool add) {
            const int64_t from = part(n_out, t, of, step), to = part(n_out, t + 1, of, step);
            if constexpr (grouped<M>) {
                float* place = x == gate ? integers + rows * input_floats(std::max(d, q_wide)) : integers;
                product<M>(inputs_in(place, rows, k), rows, (const M*)w, k, from, to, y, ldy, bias, add);
            } else {
                product<M>(x, k, rows, (const M*)w, k, from, to, y, ldy, bias, add);
            }
        };
        for (int64_t b = 0; b < n_blocks; b++) {
            const Block& block = blocks[b];
            const float* x = c.hidden;
            if (block.norms & 1) {
                normalize(block.before, c.hidden, normed, false);
                x = normed;
            }
            ready(x, d);
            if (grouped<M> || (block.norms & 1)) {
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
            if constexpr (grouped<M>) {
                ready(seen, q_wide);
#pragma omp barrier
            }
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
            }
            ready(x, d);
            if (grouped<M> || (block.norms & 2)) {
#pragma omp barrier
            }
            multiply(block.gate, block.gate_bias, x, d, s.d_ff, gate, s.d_ff, false);
            multiply(block.up, block.up_bias, x, d, s.d_ff, up, s.d_ff, false);
            const int64_t lo = part(s.d_ff, t, of, step), hi = part(s.d_ff, t + 1, of, step);
            for (int64_t r = 0; r < rows; r++) {
                gated(s, gate + r * s.d_ff + lo, up + r * s.d_ff + lo, hi - lo);
                if constexpr (grouped<M>)
                    quantize<M>(inputs_in(integers + rows * input_floats(std::max(d, q_wide)), rows, s.d_ff), r,
                                gate + r * s.d_ff, s.d_ff, lo / G, groups_of(hi));
            }
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

template <class M>
void product_of(const float* x, int64_t rows, int64_t k, const void* weights, const float* bias, int64_t n_out, float* y,
                int64_t ldy, int64_t threads) {
    const M* w = (const M*)weights;
    std::vector<float> integers(grouped<M> ? rows * input_floats(k) : 0);
    constexpr int64_t step = grouped<M> ? G : 12;
#pragma omp parallel num_threads((int)threads)
    {
        const int64_t t = omp_get_thread_num(), of = omp_get_num_threads();
        const int64_t from = part(n_out, t, of, step), to = part(n_out, t + 1, of, step);
        if constexpr (grouped<M>) {
            const Inputs inputs = inputs_in(integers.data(), rows, k);
            for (int64_t r = rows * t / of; r < rows * (t + 1) / of; r++)
                quantize<M>(inputs, r, x + r * k, k, 0, groups_of(k));
#pragma omp barrier
            product<M>(inputs, rows, w, k, from, to, y, ldy, bias, false);
        } else {
            product<M>(x, k, rows, w, k, from, to, y, ldy, bias, false);
        }
    }
}

}  // namespace

extern "C" {

void run_blocks(const Shape* s, const Block* blocks, const Kept* kept, int64_t n_blocks, const Call* c) {
    switch (s->form) {
#if GROUPED
        case 2: blocks_of<Q8, float>(*s, blocks, kept, n_blocks, *c); break;
        case 3: blocks_of<Q4, float>(*s, blocks, kept, n_blocks, *c); break;
#else
        case 0: blocks_of<float, float>(*s, blocks, kept, n_blocks, *c); break;
        case 1: blocks_of<bf16, bf16>(*s, blocks, kept, n_blocks, *c); break;
#endif
        default: break;
    }
}

// y (rows, ldy) = x (rows, k) w^T + bias, w (n_out, k) in a form as in Shape
void run_product(int32_t form, const float* x, int64_t rows, int64_t k, const void* w, const float* bias, int64_t n_out,
                 float* y, int64_t ldy, int64_t threads) {
    switch (form) {
#if GROUPED
        case 2: product_of<Q8>(x, rows, k, w, bias, n_out, y, ldy, threads); break;
        case 3: product_of<Q4>(x, rows, k, w, bias, n_out, y, ldy, threads); break;
#else
        case 0: product_of<float>(x, rows, k, w, bias, n_out, y, ldy, threads); break;
        case 1: product_of<bf16>(x, rows, k, w, bias, n_out, y, ldy, threads); break;
#endif
        default: break;
    }
}

#if GROUPED
// Scales and least values for four bits of n groups of inputs, (n, 32)
void run_fit(const float* x, int64_t n, float* scale, float* least, int64_t threads) {
#pragma omp parallel for num_threads((int)threads)
    for (int64_t i = 0; i < n; i++) fit(x + i * G, scale + i, least + i);
}

// Rows `ids` of a matrix in groups, (n, k)
void run_rows(int32_t form, const void* w, int64_t k, const int64_t* ids, int64_t n, float* to) {
    if (form == 2)
        rows_of<Q8>((const Q8*)w, k, ids, n, to);
    else
        rows_of<Q4>((const Q4*)w, k, ids, n, to);
}
#endif
}
