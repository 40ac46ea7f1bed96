// Blocks of a Llama-like transformer for few rows, on the processor: a block is one call, not hundreds of operators.
//
// Built and called by native.py, which describes the structures. Activations and everything between the matrices are
// fp32. Weights and the cache of keys and values are fp32 or bf16 and are read where PyTorch has them, (out, in) and
// (batch, heads, capacity, width) row by row. Weights may also be integers in groups, laid out by grouped.py; then the
// cache is fp32. What goes into a product is rounded to integers beside integers, and to bf16 beside bf16 where the
// processor multiplies those. A row's result does not depend on how many rows come with it.
// Compiled with GROUPED for integers in groups and without it for the rest: each is ready in seconds when it is needed.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>
#include <type_traits>
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

constexpr int64_t LINE = 64;  // bytes of a cache line
constexpr int64_t ROWS = 4;   // that are multiplied together

// Weights that will be needed next: `n` outputs. They are fetched while others are used, input by input.
template <class T> struct Ahead {
    const T* w = nullptr;
    int64_t n = 0;

    inline void fetch(int64_t i, int64_t k) const {
        for (int64_t o = 0; o < n; o++) __builtin_prefetch(w + o * k + i);
    }
};

// What the tile of row r fetches of the O outputs behind those it uses: every tile of these rows its share. Otherwise the
// memory would rest while all tiles but the first find their weights in the cache.
template <int O, class T> inline Ahead<T> ahead(int64_t r, int64_t rows, const T* w, int64_t k) {
    const int64_t tiles = (rows + ROWS - 1) / ROWS, first = O * (r / ROWS) / tiles, last = O * (r / ROWS + 1) / tiles;
    return {w + (O + first) * k, last - first};
}

// y[r][o] (+)= x[r] . w[o] (+ bias[o]) for O outputs and R rows, whose sums stay in registers.
template <class T, int O, int R>
inline void tile(const float* x, int64_t ldx, const T* w, int64_t k, float* y, int64_t ldy, const float* bias, bool add,
                 Ahead<T> next = {}) {
    V sums[O * R];
#pragma GCC unroll 32
    for (int j = 0; j < O * R; j++) sums[j] = V{};
    int64_t i = 0;
    for (; i + W <= k; i += W) {
        next.fetch(i, k);
        V ws[O];
#pragma GCC unroll 32
        for (int o = 0; o < O; o++) ws[o] = held(load(w + o * k + i));
#pragma GCC unroll 32
        for (int r = 0; r < R; r++) {
            const V xs = load(x + r * ldx + i);
#pragma GCC unroll 32
            for (int o = 0; o < O; o++) sums[o * R + r] += ws[o] * xs;
        }
    }
    float of[(O * R + 3) / 4 * 4];
#pragma GCC unroll 32
    for (int j = 0; j < O * R; j += 4)
        totals(sums[j], j + 1 < O * R ? sums[j + 1] : V{}, j + 2 < O * R ? sums[j + 2] : V{},
               j + 3 < O * R ? sums[j + 3] : V{}, of + j);
    for (; i < k; i++)
        for (int o = 0; o < O; o++)
            for (int r = 0; r < R; r++) of[o * R + r] += x[r * ldx + i] * value(w[o * k + i]);
#pragma GCC unroll 32
    for (int o = 0; o < O; o++)
#pragma GCC unroll 32
        for (int r = 0; r < R; r++) {
            float* to = y + r * ldy + o;
            const float s = bias ? of[o * R + r] + bias[o] : of[o * R + r];
            *to = add ? *to + s : s;
        }
}

template <class T, int O>
inline void band(const float* x, int64_t ldx, int64_t rows, const T* w, int64_t k, float* y, int64_t ldy,
                 const float* bias, bool add) {
    for (int64_t r = 0; r < rows; r += ROWS, x += ROWS * ldx, y += ROWS * ldy) {
        const Ahead<T> next = ahead<O>(r, rows, w, k);
        switch (std::min(ROWS, rows - r)) {
            case 4: tile<T, O, 4>(x, ldx, w, k, y, ldy, bias, add, next); break;
            case 3: tile<T, O, 3>(x, ldx, w, k, y, ldy, bias, add, next); break;
            case 2: tile<T, O, 2>(x, ldx, w, k, y, ldy, bias, add, next); break;
            default: tile<T, O, 1>(x, ldx, w, k, y, ldy, bias, add, next); break;
        }
    }
}

// Outputs whose sums fit the registers, of one row and of several. One row only waits for its weights: the more of them
// are read side by side, the less.
#if defined(__AVX512F__)
constexpr int ALONE = 8, BESIDE = 6;
#else
constexpr int ALONE = 4, BESIDE = 3;
#endif

// The outputs lo to hi of a product: y[r][o] (+)= x[r] . w[o] (+ bias[o]).
template <class T>
void product(const float* x, int64_t ldx, int64_t rows, const T* w, int64_t k, int64_t lo, int64_t hi, float* y,
             int64_t ldy, const float* bias, bool add) {
    int64_t o = lo;
    if (rows == 1) {
        for (; o + ALONE <= hi; o += ALONE)
            tile<T, ALONE, 1>(x, ldx, w + o * k, k, y + o, ldy, bias ? bias + o : nullptr, add);
    } else {
        for (; o + BESIDE <= hi; o += BESIDE)
            band<T, BESIDE>(x, ldx, rows, w + o * k, k, y + o, ldy, bias ? bias + o : nullptr, add);
    }
    for (; o < hi; o++) band<T, 1>(x, ldx, rows, w + o * k, k, y + o, ldy, bias ? bias + o : nullptr, add);
}

inline int64_t part(int64_t n, int64_t i, int64_t of, int64_t step) {
    return i == of ? n : n * i / of / step * step;
}

// ---------------------------------------------------------------- inputs that are rounded first

// Products with these weights are given their inputs in another form, by whoever has the rows, before others read them.
template <class M> constexpr bool prepared = false;

constexpr int64_t G = 32;  // inputs that are rounded together

inline int64_t groups_of(int64_t k) { return (k + G - 1) / G; }

// Rows of inputs, rounded. As bf16: row by row. As integers, x = scale * q in each group: group by group and in a group row
// by row, because a group of weights is unpacked once for many rows.
struct Inputs {
    void *q, *sums;
    float* scale;
    int64_t rows;
};

constexpr int64_t input_floats(int64_t k) { return (k + G - 1) / G * (G / 2 + 2) + LINE / 4; }

inline Inputs inputs_in(float* place, int64_t rows, int64_t k) {
    const int64_t n = rows * groups_of(k);
    return {(void*)(((uintptr_t)(place + 2 * n) + LINE - 1) / LINE * LINE), place + n, place, rows};
}

#if defined(__AVX512BF16__) && defined(__AVX512BW__)

template <> constexpr bool prepared<bf16> = true;

// The groups first to last of row r.
template <class M, std::enable_if_t<std::is_same_v<M, bf16>, int> = 0>
inline void quantize(const Inputs& to, int64_t r, const float* x, int64_t k, int64_t first, int64_t last) {
    auto* row = (bf16*)to.q + r * groups_of(k) * G;
    for (int64_t i = first * G; i < last * G; i += W) {
        const __mmask16 there = i + W <= k ? 0xffff : i < k ? (1u << (k - i)) - 1 : 0;
        const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(there, x + i));
        std::memcpy(row + i, &rounded, sizeof rounded);
    }
}

// The sums of sixteen.
inline V totals(const V* all) {
    const auto halved = [](V a, V b) { return (V)_mm512_unpacklo_ps((__m512)a, (__m512)b) + (V)_mm512_unpackhi_ps((__m512)a, (__m512)b); };
    const auto quartered = [](V a, V b) {
        return (V)_mm512_unpacklo_pd((__m512d)a, (__m512d)b) + (V)_mm512_unpackhi_pd((__m512d)a, (__m512d)b);
    };
    const auto joined = [](V a, V b) {
        return (V)_mm512_shuffle_f32x4((__m512)a, (__m512)b, 0x88) + (V)_mm512_shuffle_f32x4((__m512)a, (__m512)b, 0xdd);
    };
    V of[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        of[i] = quartered(halved(all[4 * i], all[4 * i + 1]), halved(all[4 * i + 2], all[4 * i + 3]));
    return joined(joined(of[0], of[1]), joined(of[2], of[3]));
}

// As `tile`, of the rows r to r + R in bf16; at most sixteen sums.
template <int O, int R>
inline void rounded_tile(const Inputs& x, int64_t r, const bf16* w, int64_t k, float* y, int64_t ldy, const float* bias,
                         bool add, Ahead<bf16> next = {}) {
    V sums[16];
#pragma GCC unroll 16
    for (int j = 0; j < 16; j++) sums[j] = V{};
    const int64_t ldx = groups_of(k) * G;
    const bf16* rows = (const bf16*)x.q + r * ldx;
    const auto step = [&](int64_t i, __mmask32 there) {
        next.fetch(i, k);
        V ws[O];
#pragma GCC unroll 16
        for (int o = 0; o < O; o++) ws[o] = held((V)_mm512_maskz_loadu_epi16(there, w + o * k + i));
#pragma GCC unroll 16
        for (int j = 0; j < R; j++) {
            const V xs = load((const float*)(rows + j * ldx + i));
#pragma GCC unroll 16
            for (int o = 0; o < O; o++)
                sums[j * O + o] = (V)_mm512_dpbf16_ps((__m512)sums[j * O + o], (__m512bh)ws[o], (__m512bh)xs);
        }
    };
    int64_t i = 0;
    for (; i + G <= k; i += G) step(i, 0xffffffff);
    if (i < k) step(i, (1u << (k - i)) - 1);
    float of[16];
    store(of, totals(sums));
#pragma GCC unroll 4
    for (int j = 0; j < R; j++) {
        typedef float Few __attribute__((vector_size(O * 4)));
        Few own, beside;
        float* to = y + (r + j) * ldy;
        std::memcpy(&own, of + j * O, sizeof own);
        if (bias) std::memcpy(&beside, bias, sizeof beside), own += beside;
        if (add) std::memcpy(&beside, to, sizeof beside), own += beside;
        std::memcpy(to, &own, sizeof own);
    }
}

template <int O>
inline void rounded_band(const Inputs& x, int64_t rows, const bf16* w, int64_t k, float* y, int64_t ldy,
                         const float* bias, bool add) {
    for (int64_t r = 0; r < rows; r += ROWS) {
        const Ahead<bf16> next = ahead<O>(r, rows, w, k);
        switch (std::min(ROWS, rows - r)) {
            case 4: rounded_tile<O, 4>(x, r, w, k, y, ldy, bias, add, next); break;
            case 3: rounded_tile<O, 3>(x, r, w, k, y, ldy, bias, add, next); break;
            case 2: rounded_tile<O, 2>(x, r, w, k, y, ldy, bias, add, next); break;
            default: rounded_tile<O, 1>(x, r, w, k, y, ldy, bias, add, next); break;
        }
    }
}

// The outputs lo to hi of a product: y[r][o] (+)= x[r] . w[o] (+ bias[o]).
template <class M, std::enable_if_t<std::is_same_v<M, bf16>, int> = 0>
void product(const Inputs& x, int64_t rows, const M* w, int64_t k, int64_t lo, int64_t hi, float* y, int64_t ldy,
             const float* bias, bool add) {
    int64_t o = lo;
    if (rows == 1)
        for (; o + 16 <= hi; o += 16)
            rounded_tile<16, 1>(x, 0, w + o * k, k, y + o, ldy, bias ? bias + o : nullptr, add);
    if (rows == 2)
        for (; o + 8 <= hi; o += 8)
            rounded_tile<8, 2>(x, 0, w + o * k, k, y + o, ldy, bias ? bias + o : nullptr, add,
                               ahead<8>(0, rows, w + o * k, k));
    for (; o + 4 <= hi; o += 4) rounded_band<4>(x, rows, w + o * k, k, y + o, ldy, bias ? bias + o : nullptr, add);
    for (; o < hi; o++) rounded_band<1>(x, rows, w + o * k, k, y + o, ldy, bias ? bias + o : nullptr, add);
}

#endif

// ---------------------------------------------------------------- products of integers in groups

// A matrix is panels of P outputs one behind the other. A panel is its scales, group of G inputs by group, and behind them
// its integers. Rows and columns that fill the last panel and group up are zero. An M is as large as a panel's group.
constexpr int64_t P = 16;
constexpr int64_t BAND = 16;     // rows for which a group is unpacked once
constexpr int64_t AHEAD = 4096;  // bytes by which weights are fetched before they are used
constexpr int64_t L = P / W;     // vectors of a panel's outputs
constexpr int STEPS = G / 4;     // a step is four inputs, and four integers of each output in 32 bits
constexpr int TILE = W / 2;      // rows whose sums stay in registers
constexpr float LARGEST = 127;   // of the inputs, as integers

// Where there are no instructions for sums of four products of bytes, AVX2 has those of pairs. They take 16 bits beside
// weights of which two products are too much for a sum.
#if !defined(__AVX512VNNI__) && !defined(__AVXVNNI__) && \
    (defined(__AVX512BW__) || (defined(__AVX2__) && !defined(__AVX512F__)))
#define PAIRS 1
#endif

struct Q8 {  // w = scale * (q - 128), fp16 and 1 to 255
    static constexpr int64_t factors = 1;
    uint16_t scale[P];
    uint8_t q[STEPS][P][4];
#if PAIRS
    static constexpr int words = 2 * STEPS;  // 32 bits of inputs
#else
    static constexpr int words = STEPS;
#endif
    typedef int32_t Sum;  // -128 times the sum of the inputs, as integers
};

struct Q4 {  // w = scale * q + least, fp16 and 0 to 15
    static constexpr int64_t factors = 2;
    uint16_t scale[P], least[P];
    uint8_t q[STEPS / 2][P][4];  // eight inputs: the first four in the low halves, the next four in the high ones
    static constexpr int words = STEPS;
    typedef float Sum;  // of the inputs
};

static_assert(sizeof(Q8) == 544 && sizeof(Q4) == 320, "as grouped.py lays them out");

template <> constexpr bool prepared<Q8> = true;
template <> constexpr bool prepared<Q4> = true;
template <class M> constexpr bool wide = std::is_same_v<M, Q8>;

// Where the scales and the integers of a panel's group g are.
template <class M> inline const uint16_t* scales_of(const M* panel, int64_t g) {
    return (const uint16_t*)panel + g * M::factors * P;
}
template <class M> inline const uint8_t* integers_of(const M* panel, int64_t n_groups, int64_t g) {
    return (const uint8_t*)scales_of(panel, n_groups) + g * (int64_t)sizeof(M::q);
}

// Sums of four products, of 0 to 255 and int8, in each lane.
#if defined(__AVX512VNNI__)
constexpr int UNROLLED = STEPS;  // so that a group stays in registers, of which there are 32
inline I dot(I sum, I w, I x) { return (I)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x); }
#elif defined(__AVXVNNI__)
constexpr int UNROLLED = 1;
inline I dot(I sum, I w, I x) { return (I)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)w, (__m256i)x); }
#elif PAIRS
constexpr int UNROLLED = 1;  // so that sums stay in registers and products do not
// The same in 16 bits, where those of a group fit if w is at most 15 (15 * 127 * 16 < 2^15); and of pairs of int16.
// Product and sum in one, for compilers keep many products before they add them up.
inline I dot(I sum, I w, I x) {
    I t;
    asm("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+v"(sum), "=&v"(t) : "v"(w), "v"(x));
    return sum;
}
inline I pairs(I sum, I w, I x) {
    I t;
    asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+v"(sum), "=&v"(t) : "v"(w), "v"(x));
    return sum;
}
inline I whole(I sums) { return ((I)((U)sums << 16) >> 16) + (sums >> 16); }
#else
constexpr int UNROLLED = 1;
inline I dot(I sum, I w, I x) {
    for (int j = 0; j < 32; j += 8) sum += (I)((U)w >> j & 255) * ((I)((U)x << (24 - j)) >> 24);
    return sum;
}
#endif

// The integers x of a group from the i-th on, W of them, as they are multiplied.
template <class M> inline void put_inputs(I x, int64_t i, char* to) {
    typedef int8_t Bytes __attribute__((vector_size(W)));
    if constexpr (M::words == STEPS) {
        const Bytes q = __builtin_convertvector(x, Bytes);
        std::memcpy(to + i, &q, W);
    } else {  // as 16 bits: of every four those beside even and then those beside odd bytes of the weights
        typedef int16_t Pairs __attribute__((vector_size(W * 2)));
        typedef uint64_t Fours __attribute__((vector_size(W * 2)));
        const Fours q = (Fours)__builtin_convertvector(x, Pairs);
        const Fours swapped = (q & 0xffff00000000ffff) | (q >> 16 & 0xffff0000) | (q & 0xffff0000) << 16;
        std::memcpy(to + 2 * i, &swapped, 2 * W);
    }
}

// The groups first to last of row r.
template <class M, std::enable_if_t<!std::is_same_v<M, bf16>, int> = 0>
inline void quantize(const Inputs& to, int64_t r, const float* x, int64_t k, int64_t first, int64_t last) {
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
        float of[W];
        store(of, peaks);
#pragma GCC unroll 4
        for (int64_t half = W / 2; half; half /= 2)
            for (int64_t j = 0; j < half; j++) of[j] = std::max(of[j], of[j + half]);
        const float peak = of[0], factor = peak > 1e-30f ? LARGEST / peak : 0.0f;
        const int64_t at = g * to.rows + r;
        I sums = {};
        for (int64_t i = 0; i < G; i += W) {
            const V v = load(from + i) * factor + turn;
            const I whole = (I)v - (I)turn;
            put_inputs<M>(whole, i, (char*)to.q + at * M::words * 4);
            sums += whole;
        }
        int32_t lanes[W], sum = 0;
        std::memcpy(lanes, &sums, sizeof sums);
        for (int64_t j = 0; j < W; j++) sum += lanes[j];
        const float scale = peak > 1e-30f ? peak / LARGEST : 0.0f;
        to.scale[at] = scale;
        ((typename M::Sum*)to.sums)[at] = wide<M> ? -128 * sum : scale * (float)sum;
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

inline V halves(const uint16_t* h) {
#if defined(__AVX512F__)
    return (V)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)h));
#elif defined(__F16C__)
    return (V)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)h));
#else
    float of[W];
    for (int64_t j = 0; j < W; j++) of[j] = of_half(h[j]);
    return load(of);
#endif
}

inline I integers(const uint8_t* p) {
    I i;
    std::memcpy(&i, p, sizeof i);
    return i;
}

// One group of a panel, unpacked: 32 bits of each output for every step.
template <class M> struct Group {
    static constexpr int steps = M::words;
    I q[steps][L];
    V scale[L], least[L];

    inline __attribute__((always_inline)) Group(const M* w, int64_t n_groups, int64_t g) {
        const uint8_t* from = integers_of(w, n_groups, g);
#pragma GCC unroll 16
        for (int i = 0; i < steps; i++)
#pragma GCC unroll 4
            for (int l = 0; l < L; l++) {
                if constexpr (!wide<M>)
                    q[i][l] = (I)((U)integers(from + (i / 2 * L + l) * W * 4) >> (i % 2 * 4) & 0x0f0f0f0f);
                else if constexpr (steps == STEPS)
                    q[i][l] = integers(from + (i * L + l) * W * 4);
                else
                    q[i][l] = (I)((U)integers(from + (i / 2 * L + l) * W * 4) >> (i % 2 * 8) & 0x00ff00ff);
            }
#pragma GCC unroll 4
        for (int l = 0; l < L; l++) {
            scale[l] = halves(scales_of(w, g) + l * W);
            if constexpr (!wide<M>) least[l] = halves(scales_of(w, g) + P + l * W);
        }
    }

    // The products with the words of R rows, added to `all`, a panel for every row.
    template <int R>
    inline __attribute__((always_inline)) void times(const int32_t* x, const float* by, const typename M::Sum* sums,
                                                     float (*all)[P]) const {
        I found[R][L];
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int l = 0; l < L; l++) found[r][l] = I{};
#pragma GCC unroll UNROLLED
        for (int i = 0; i < steps; i++) {
            I ws[L];
#pragma GCC unroll 4
            for (int l = 0; l < L; l++) ws[l] = q[i][l];
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                const I xs = I{} + x[r * M::words + i];
#pragma GCC unroll 4
                for (int l = 0; l < L; l++) {
#if PAIRS
                    if constexpr (wide<M>) {
                        found[r][l] = pairs(found[r][l], ws[l], xs);
                        continue;
                    }
#endif
                    found[r][l] = dot(found[r][l], ws[l], xs);
                }
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int l = 0; l < L; l++) {
                float* to = all[r] + l * W;
                V sum = load(to);
                if constexpr (wide<M>)
                    found[r][l] += sums[r];
                else
                    sum += least[l] * sums[r];
#if PAIRS
                if constexpr (!wide<M>) found[r][l] = whole(found[r][l]);
#endif
                sum += __builtin_convertvector(found[r][l], V) * (scale[l] * by[r]);
                store(to, sum);
            }
    }

    // The same with n rows, at most R.
    template <int R>
    inline void rest(int64_t n, const int32_t* x, const float* by, const typename M::Sum* sums, float (*all)[P]) const {
        if (n == R)
            times<R>(x, by, sums, all);
        else if constexpr (R > 1)
            rest<R - 1>(n, x, by, sums, all);
    }
};

// One panel with the n rows from r on, at most BAND.
template <class M>
void panel(const Inputs& x, int64_t r, int64_t n, const M* w, int64_t n_groups, int64_t n_out, float* y, int64_t ldy,
           const float* bias, bool add) {
    alignas(64) float all[BAND][P] = {};
    for (int64_t g = 0; g < n_groups; g++) {
        for (int64_t i = 0; i < (int64_t)sizeof(M); i += LINE) __builtin_prefetch((const char*)(w + g) + AHEAD + i);
        const Group<M> group(w, n_groups, g);
        const int64_t at = g * x.rows + r;
        const auto* words = (const int32_t*)x.q + at * M::words;
        const auto* sums = (const typename M::Sum*)x.sums + at;
        const float* by = x.scale + at;
        int64_t i = 0;
        for (; i + TILE <= n; i += TILE) group.template times<TILE>(words + i * M::words, by + i, sums + i, all + i);
        group.template rest<TILE - 1>(n - i, words + i * M::words, by + i, sums + i, all + i);
    }
    for (int64_t i = 0; i < n; i++) {
        float* to = y + (r + i) * ldy;
        if (n_out >= P) {
#pragma GCC unroll 4
            for (int64_t j = 0; j < P; j += W) {
                V sums = load(all[i] + j);
                if (bias) sums += load(bias + j);
                store(to + j, add ? load(to + j) + sums : sums);
            }
        } else {
            for (int64_t j = 0; j < n_out; j++) {
                const float s = bias ? all[i][j] + bias[j] : all[i][j];
                to[j] = add ? to[j] + s : s;
            }
        }
    }
}

// The outputs lo to hi; lo is where a panel begins, and hi where one begins or the matrix ends.
template <class M, std::enable_if_t<!std::is_same_v<M, bf16>, int> = 0>
void product(const Inputs& x, int64_t rows, const M* w, int64_t k, int64_t lo, int64_t hi, float* y, int64_t ldy,
             const float* bias, bool add) {
    const int64_t n_groups = groups_of(k);
    for (int64_t o = lo; o < hi; o += P)
        for (int64_t r = 0; r < rows; r += BAND)
            panel<M>(x, r, std::min(BAND, rows - r), w + o / P * n_groups, n_groups, hi - o, y + o, ldy,
                     bias ? bias + o : nullptr, add);
}

// Row `lane` of a panel as plain numbers.
template <class M> void written(const M* w, int64_t k, int64_t lane, float* to) {
    for (int64_t g = 0; g < groups_of(k); g++) {
        const uint16_t* scales = scales_of(w, g);
        const uint8_t* q = integers_of(w, groups_of(k), g) + lane * 4;
        const float scale = of_half(scales[lane]), least = wide<M> ? 0 : of_half(scales[P + lane]);
        for (int64_t i = 0; i < std::min(G, k - g * G); i++)
            to[g * G + i] = (wide<M> ? (float)((int32_t)q[i / 4 * P * 4 + i % 4] - 128)
                                     : (float)(q[i / 8 * P * 4 + i % 4] >> (i % 8 / 4 * 4) & 15)) * scale + least;
    }
}

// Scale and least of one group for four bits: the least squares of w - scale * q - least over ranges a little narrower
// and wider than the group's own, large weights counting more, as GGUF's quantizers have it. All ranges at once, so that
// no sum goes across a vector; y is counted from the lowest weight, and what is left of its squares is the error.
inline void fit(const float* x, float* scale, float* least) {
    constexpr int64_t turns = 21, lanes = 32;
    float low = x[0], high = x[0], squares = 0;
    for (int64_t i = 0; i < G; i++) low = std::min(low, x[i]), high = std::max(high, x[i]);
    *scale = 0, *least = low;
    if (!(high > low)) return;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < G; i++) squares += x[i] * x[i];
    const float mean = std::sqrt(squares / G);
    alignas(64) float steps[lanes], wq[lanes] = {}, wqq[lanes] = {}, wyq[lanes] = {};
    for (int64_t t = 0; t < lanes; t++) steps[t] = (14.0f + 0.1f * (float)std::min(t, turns - 1)) / (high - low);
    float w = 0, wy = 0, wyy = 0;
    for (int64_t i = 0; i < G; i++) {
        const float y = x[i] - low, weight = mean + std::fabs(x[i]);
        w += weight, wy += weight * y, wyy += weight * y * y;
#pragma omp simd
        for (int64_t t = 0; t < lanes; t++) {
            const float q = std::min(15.0f, (y * steps[t] + 12582912.0f) - 12582912.0f), v = weight * q;
            wq[t] += v, wqq[t] += v * q, wyq[t] += v * y;
        }
    }
    float best = INFINITY;
    for (int64_t t = 0; t < turns; t++) {
        const float d = w * wqq[t] - wq[t] * wq[t];
        if (!(d > 0)) continue;
        const float s = (w * wyq[t] - wy * wq[t]) / d, m = (wqq[t] * wy - wq[t] * wyq[t]) / d;
        const float error = wyy - s * wyq[t] - m * wy;
        if (error < best) best = error, *scale = s, *least = low + m;
    }
}

template <class M> void rows_of(const M* w, int64_t k, const int64_t* ids, int64_t n, float* to) {
    for (int64_t j = 0; j < n; j++) written(w + ids[j] / P * groups_of(k), k, ids[j] % P, to + j * k);
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
           threads * 4 * (n_past + n) + (s->form ? rows * integers : 0);
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
    constexpr int64_t step = prepared<M> ? G : ALONE * BESIDE;  // outputs of a thread are a multiple of it

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
            if constexpr (prepared<M>)
                for (int64_t r = first; r < last; r++)
                    quantize<M>(inputs_in(integers, rows, k), r, x + r * k, k, 0, groups_of(k));
        };
        const auto multiply = [&](const void* w, const float* bias, const float* x, int64_t k, int64_t n_out, float* y,
                                  int64_t ldy, bool add) {
            const int64_t from = part(n_out, t, of, step), to = part(n_out, t + 1, of, step);
            if constexpr (prepared<M>) {
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
            if (prepared<M> || (block.norms & 1)) {
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
            if constexpr (prepared<M>) {
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
            if (prepared<M> || (block.norms & 2)) {
#pragma omp barrier
            }
            multiply(block.gate, block.gate_bias, x, d, s.d_ff, gate, s.d_ff, false);
            multiply(block.up, block.up_bias, x, d, s.d_ff, up, s.d_ff, false);
            const int64_t lo = part(s.d_ff, t, of, step), hi = part(s.d_ff, t + 1, of, step);
            for (int64_t r = 0; r < rows; r++) {
                gated(s, gate + r * s.d_ff + lo, up + r * s.d_ff + lo, hi - lo);
                if constexpr (prepared<M>)
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
    std::vector<float> integers(prepared<M> ? rows * input_floats(k) : 0);
    constexpr int64_t step = prepared<M> ? G : ALONE * BESIDE;
#pragma omp parallel num_threads((int)threads)
    {
        const int64_t t = omp_get_thread_num(), of = omp_get_num_threads();
        const int64_t from = part(n_out, t, of, step), to = part(n_out, t + 1, of, step);
        if constexpr (prepared<M>) {
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
