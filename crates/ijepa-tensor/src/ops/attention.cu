// Multi-head attention over short sequences, forward and backward, on tensor cores; see attention.rs for the maths.
//
// A block computes 64 rows of one head of one sequence, a warp 16 of them, and walks over the other side 64 rows at a time, so
// that sequences of any length need the same little shared memory. The way back recomputes scores twice, once by rows of queries
// and once by rows of keys: two more products of seven, and in return nothing is added by two blocks, and no order can vary.
// E is the width of a head rounded up to a multiple of 16.
#include "tiles.cuh"

const float LOG2_E = 1.44269504f;
const float LN_2 = 0.69314718f;
// Keys whose scores a warp holds at a time, going forward.
const int KEYS = TILE / 16;

// Pointers of one head of one sequence.
struct Head {
    const bf16* q;
    const bf16* k;
    const bf16* v;
};

DEVICE Head head_of(const bf16* q, int q_stride, const bf16* kv, int kv_stride, int t, int n, int heads, int head) {
    const size_t sequence = blockIdx.z;
    Head result;
    result.q = q + sequence * t * q_stride + blockIdx.y * head;
    result.k = kv + sequence * n * kv_stride + blockIdx.y * head;
    result.v = result.k + heads * head;
    return result;
}

// Shared memory has two places, of two tiles each: while a block computes on what lies in one, what comes next is copied to the other.
template <int E>
DEVICE bf16* place(bf16* shared, int number) { return shared + number % 2 * 2 * Size<E>::VALUE; }

// What lies behind both.
template <int E>
DEVICE float* behind(bf16* shared) { return reinterpret_cast<float*>(shared + 4 * Size<E>::VALUE); }

// The place that the last of `count` rows (1 or more) do not lie in: nobody reads it any more once all have arrived for these.
template <int E>
DEVICE bf16* free_place(bf16* shared, int count) { return place<E>(shared, (count + TILE - 1) / TILE); }

// Two tiles: keys and values of TILE tokens from `key` on.
template <int E>
DEVICE void load_keys(bf16* keys, int key, Head at, int kv_stride, int n, int head) {
    const size_t begin = static_cast<size_t>(key) * kv_stride;
    load_tile<E>(keys, at.k + begin, kv_stride, n - key, head);
    load_tile<E>(keys + Size<E>::VALUE, at.v + begin, kv_stride, n - key, head);
}

DEVICE float scale_of(int head) { return 1.0f / sqrtf(static_cast<float>(head)); }

DEVICE float quad_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 1));
    return fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 2));
}

DEVICE float quad_sum(float value) {
    value += __shfl_xor_sync(ALL_LANES, value, 1);
    return value + __shfl_xor_sync(ALL_LANES, value, 2);
}

// Scores (16, TILE) of this warp's queries, those of keys from `keys` on left out, become 2^(scale·score − shift), where `shift` is the largest
// power so far; `out` and `total` are scaled to the new one.
template <int E>
DEVICE void soften(float (&scores)[KEYS][2][4], float (&out)[E / 8][4], float (&shift)[2], float (&total)[2], int keys, float scale) {
    if (keys < TILE) {
#pragma unroll
        for (int i = 0; i < KEYS * 8; i++) {
            const int key = i / 4 * 8 + lane() % 4 * 2 + i % 2;
            if (key >= keys) scores[i / 8][i / 4 % 2][i % 4] = __uint_as_float(0xff800000u);  // −∞
        }
    }
    float largest[2] = {scores[0][0][0], scores[0][0][2]};
#pragma unroll
    for (int i = 0; i < KEYS * 8; i++) largest[i / 2 % 2] = fmaxf(largest[i / 2 % 2], scores[i / 8][i / 4 % 2][i % 4]);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float next = fmaxf(shift[half], quad_max(largest[half]) * scale);
        const float factor = power_of_two(shift[half] - next);
        shift[half] = next;
        total[half] *= factor;
#pragma unroll
        for (int k = 0; k < E / 8; k++) {
            out[k][2 * half] *= factor;
            out[k][2 * half + 1] *= factor;
        }
    }
#pragma unroll
    for (int i = 0; i < KEYS * 8; i++) {
        float& score = scores[i / 8][i / 4 % 2][i % 4];
        score = power_of_two(score * scale - shift[i / 2 % 2]);
        total[i / 2 % 2] += score;
    }
}

template <int E>
DEVICE void forward(bf16* out, float* sums, const bf16* q, int q_stride, const bf16* kv, int kv_stride, int t, int n, int heads,
                    int head, bf16* shared) {
    const Head at = head_of(q, q_stride, kv, kv_stride, t, n, heads, head);
    const int first = blockIdx.x * TILE, width = heads * head;
    load_tile<E>(place<E>(shared, 1), at.q + static_cast<size_t>(first) * q_stride, q_stride, t - first, head);
    load_keys<E>(place<E>(shared, 0), 0, at, kv_stride, n, head);
    arrive();
    u32 query[E / 16][4];
    load_left<E>(query, place<E>(shared, 1));
    float result[E / 8][4] = {};
    float shift[2], total[2] = {0.0f, 0.0f};
    fill(shift, __uint_as_float(0xff800000u));
    const float scale = scale_of(head) * LOG2_E;
    for (int key = 0; key < n; key += TILE) {
        // Also the first time: until then others read their queries where the next keys go.
        arrive();
        if (key + TILE < n) load_keys<E>(place<E>(shared, key / TILE + 1), key + TILE, at, kv_stride, n, head);
        if (first + warp() * 16 >= t) continue;
        const bf16* const keys = place<E>(shared, key / TILE);
        float scores[KEYS][2][4] = {};
#pragma unroll
        for (int k = 0; k < KEYS; k++) {
            if (key + k * 16 < n) multiply_rows<E>(scores[k], query, keys, k * 16);
        }
        soften<E>(scores, result, shift, total, n - key, scale);
#pragma unroll
        for (int k = 0; k < KEYS; k++) {
            u32 left[4];
            as_left(left, scores[k]);
            if (key + k * 16 < n) multiply_columns<E>(result, left, keys + Size<E>::VALUE, k * 16);
        }
    }
    total[0] = quad_sum(total[0]);
    total[1] = quad_sum(total[1]);
    bf16* to = out + (static_cast<size_t>(blockIdx.z) * t + first) * width + blockIdx.y * head;
    store_rows<E>(to, width, t - first, head, result, 1.0f / total[0], 1.0f / total[1], free_place<E>(shared, n));
    const int row = first + warp() * 16 + lane() / 4;
    float* sum = sums + (static_cast<size_t>(blockIdx.z) * heads + blockIdx.y) * t;
    if (lane() % 4 == 0) {
        if (row < t) sum[row] = shift[0] * LN_2 + logf(total[0]);
        if (row + 8 < t) sum[row + 8] = shift[1] * LN_2 + logf(total[1]);
    }
}

// Scores become P = e^(score − log sum), and ds = P∘(dP − mean); `log_sum` and `mean` of element c of block b are at [b][c].
DEVICE void score_gradients(float (&scores)[2][4], float (&ds)[2][4], const float (&log_sum)[2][4], const float (&mean)[2][4],
                            float scale) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float p = power_of_two(scores[i / 4][i % 4] * scale - log_sum[i / 4][i % 4]);
        scores[i / 4][i % 4] = p;
        ds[i / 4][i % 4] = p * (ds[i / 4][i % 4] - mean[i / 4][i % 4]);
    }
}

// means (TILE) = sums of dout∘out over a head, of the 16 rows of this warp: two lanes have a row.
DEVICE void row_means(float* means, const bf16* dout, const bf16* out, int width, int count, int head) {
    const int row = warp() * 16 + lane() / 2, half = lane() % 2;
    float sum = 0.0f;
    if (row < count) {
        const size_t begin = static_cast<size_t>(row) * width;
        if (packed(head)) {
            for (int i = half * 8; i < head; i += 16) {
                float g[8], y[8];
                Lanes<8>::load(g, dout + begin + i);
                Lanes<8>::load(y, out + begin + i);
#pragma unroll
                for (int j = 0; j < 8; j++) sum += g[j] * y[j];
            }
        } else {
            for (int i = half; i < head; i += 2) sum += widen(dout[begin + i]) * widen(out[begin + i]);
        }
    }
    sum += __shfl_xor_sync(ALL_LANES, sum, 1);
    if (half == 0) means[row] = sum;
}

template <int E>
DEVICE void backward_queries(bf16* dq, float* means, int dq_stride, const bf16* dout, const bf16* out, const float* sums, const bf16* q,
                             int q_stride, const bf16* kv, int kv_stride, int t, int n, int heads, int head, bf16* shared) {
    const Head at = head_of(q, q_stride, kv, kv_stride, t, n, heads, head);
    const int first = blockIdx.x * TILE, width = heads * head;
    const size_t begin = (static_cast<size_t>(blockIdx.z) * t + first) * width + blockIdx.y * head;
    const size_t row = (static_cast<size_t>(blockIdx.z) * heads + blockIdx.y) * t + first;
    bf16* const queries = place<E>(shared, 1);
    float* const means_here = behind<E>(shared);
    load_tile<E>(queries, at.q + static_cast<size_t>(first) * q_stride, q_stride, t - first, head);
    load_tile<E>(queries + Size<E>::VALUE, dout + begin, width, t - first, head);
    load_keys<E>(place<E>(shared, 0), 0, at, kv_stride, n, head);
    row_means(means_here, dout + begin, out + begin, width, t - first, head);
    arrive();
    for (int i = threadIdx.x; i < min(TILE, t - first); i += TILE_WARPS * WARP) means[row + i] = means_here[i];
    u32 query[E / 16][4], gradient[E / 16][4];
    load_left<E>(query, queries);
    load_left<E>(gradient, queries + Size<E>::VALUE);
    float log_sum[2][4], mean[2][4];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int own = warp() * 16 + lane() / 4 + i / 2 % 2 * 8;
        log_sum[i / 4][i % 4] = own < t - first ? sums[row + own] * LOG2_E : 0.0f;
        mean[i / 4][i % 4] = means_here[own];
    }
    const float scale = scale_of(head);
    float result[E / 8][4] = {};
    for (int key = 0; key < n; key += TILE) {
        arrive();
        if (key + TILE < n) load_keys<E>(place<E>(shared, key / TILE + 1), key + TILE, at, kv_stride, n, head);
        if (first + warp() * 16 >= t) continue;
        const bf16* const keys = place<E>(shared, key / TILE);
        for (int k = 0; k < TILE && key + k < n; k += 16) {
            float scores[2][4] = {}, ds[2][4] = {};
            multiply_rows<E>(scores, query, keys, k);
            multiply_rows<E>(ds, gradient, keys + Size<E>::VALUE, k);
            score_gradients(scores, ds, log_sum, mean, scale * LOG2_E);
            if (key + k + 16 > n) {
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    if (key + k + i / 4 * 8 + lane() % 4 * 2 + i % 2 >= n) ds[i / 4][i % 4] = 0.0f;
                }
            }
            u32 left[4];
            as_left(left, ds);
            multiply_columns<E>(result, left, keys, k);
        }
    }
    bf16* to = dq + (static_cast<size_t>(blockIdx.z) * t + first) * dq_stride + blockIdx.y * head;
    store_rows<E>(to, dq_stride, t - first, head, result, scale, scale, free_place<E>(shared, n));
}

// Log sums and means of TILE queries each, behind the tiles of both places.
template <int E>
DEVICE float* row_values(bf16* shared, int number) {
    return behind<E>(shared) + number % 2 * 2 * TILE;
}

// What backward_keys reads of one head of one sequence beside its keys.
struct Queries {
    const bf16* q;
    const bf16* dout;
    const float* sums;
    const float* means;
};

// Queries, gradients, log sums and means of TILE rows from `query` on. Zeros beyond the last row give P = 1, which no gradient there carries on.
template <int E>
DEVICE void load_queries(bf16* shared, int query, Queries at, int q_stride, int width, int t, int head) {
    bf16* const queries = place<E>(shared, query / TILE);
    float* const values = row_values<E>(shared, query / TILE);
    load_tile<E>(queries, at.q + static_cast<size_t>(query) * q_stride, q_stride, t - query, head);
    load_tile<E>(queries + Size<E>::VALUE, at.dout + static_cast<size_t>(query) * width, width, t - query, head);
    const int row = threadIdx.x % TILE;
    const bool there = query + row < t;
    const float* const from = threadIdx.x < TILE ? at.sums : at.means;
    copy_later<4>(values + threadIdx.x, there ? from + query + row : from, there);
}

template <int E>
DEVICE void backward_keys(bf16* dkv, int dkv_stride, const bf16* dout, const float* sums, const float* means, const bf16* q,
                          int q_stride, const bf16* kv, int kv_stride, int t, int n, int heads, int head, bf16* shared) {
    const Head head_at = head_of(q, q_stride, kv, kv_stride, t, n, heads, head);
    const int first = blockIdx.x * TILE, width = heads * head;
    const size_t row = (static_cast<size_t>(blockIdx.z) * heads + blockIdx.y) * t;
    const Queries at = {head_at.q, dout + static_cast<size_t>(blockIdx.z) * t * width + blockIdx.y * head, sums + row, means + row};
    load_keys<E>(place<E>(shared, 1), first, head_at, kv_stride, n, head);
    load_queries<E>(shared, 0, at, q_stride, width, t, head);
    arrive();
    u32 key[E / 16][4], value[E / 16][4];
    load_left<E>(key, place<E>(shared, 1));
    load_left<E>(value, place<E>(shared, 1) + Size<E>::VALUE);
    const float scale = scale_of(head);
    float dkey[E / 8][4] = {}, dvalue[E / 8][4] = {};
    for (int query = 0; query < t; query += TILE) {
        arrive();
        if (query + TILE < t) load_queries<E>(shared, query + TILE, at, q_stride, width, t, head);
        if (first + warp() * 16 >= n) continue;
        const bf16* const queries = place<E>(shared, query / TILE);
        const float* const values = row_values<E>(shared, query / TILE);
        for (int k = 0; k < TILE && query + k < t; k += 16) {
            float scores[2][4] = {}, ds[2][4] = {}, log_sum[2][4], mean[2][4];
            multiply_rows<E>(scores, key, queries, k);
            multiply_rows<E>(ds, value, queries + Size<E>::VALUE, k);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const int column = k + i / 4 * 8 + lane() % 4 * 2 + i % 2;
                log_sum[i / 4][i % 4] = values[column] * LOG2_E;
                mean[i / 4][i % 4] = values[TILE + column];
            }
            score_gradients(scores, ds, log_sum, mean, scale * LOG2_E);
            u32 left[4];
            as_left(left, scores);
            multiply_columns<E>(dvalue, left, queries + Size<E>::VALUE, k);
            as_left(left, ds);
            multiply_columns<E>(dkey, left, queries, k);
        }
    }
    bf16* to = dkv + (static_cast<size_t>(blockIdx.z) * n + first) * dkv_stride + blockIdx.y * head;
    bf16* const tiles = free_place<E>(shared, t);
    store_rows<E>(to, dkv_stride, n - first, head, dkey, scale, scale, tiles);
    store_rows<E>(to + width, dkv_stride, n - first, head, dvalue, 1.0f, 1.0f, tiles + Size<E>::VALUE);
}

// For each padded width of a head, blocks of TILE_WARPS warps, (tiles, heads, sequences) of them:
// forward: out (b·t, d) =, sums (b, h, t) = log Σ_j e^(s·q·k_j); q (b·t, ·) and kv (b·n, ·), k before v, in rows `stride` apart;
// backward_queries: dq =, means (b, h, t) = sums of dout∘out; dout and out (b·t, d), `sums` of the forward pass;
// backward_keys: dkv =, with these means. BLOCKS at a time on a multiprocessor leave a thread 65536 / (128·BLOCKS) registers.
#define ATTENTION(E, BLOCKS, BLOCKS_OF_KEYS)                                                                                         \
    ATTENTION_KERNEL(BLOCKS) attention_forward_##E(bf16* out, float* sums, const bf16* q, const bf16* kv, int q_stride,              \
                                                   int kv_stride, int t, int n, int heads, int head) {                               \
        DYNAMIC_SHARED(bf16, shared);                                                                                                \
        forward<E>(out, sums, q, q_stride, kv, kv_stride, t, n, heads, head, shared);                                                \
    }                                                                                                                                \
    ATTENTION_KERNEL(BLOCKS) attention_backward_queries_##E(bf16* dq, float* means, const bf16* dout, const bf16* out,               \
                                                            const float* sums, const bf16* q, const bf16* kv, int dq_stride,         \
                                                            int q_stride, int kv_stride, int t, int n, int heads, int head) {        \
        DYNAMIC_SHARED(bf16, shared);                                                                                                \
        backward_queries<E>(dq, means, dq_stride, dout, out, sums, q, q_stride, kv, kv_stride, t, n, heads, head, shared);           \
    }                                                                                                                                \
    ATTENTION_KERNEL(BLOCKS_OF_KEYS) attention_backward_keys_##E(bf16* dkv, const bf16* dout, const float* sums, const float* means, \
                                                         const bf16* q, const bf16* kv, int dkv_stride, int q_stride,                \
                                                         int kv_stride, int t, int n, int heads, int head) {                         \
        DYNAMIC_SHARED(bf16, shared);                                                                                                \
        backward_keys<E>(dkv, dkv_stride, dout, sums, means, q, q_stride, kv, kv_stride, t, n, heads, head, shared);                 \
    }
#define ATTENTION_KERNEL(BLOCKS) KERNEL __launch_bounds__(TILE_WARPS * WARP, BLOCKS)

ATTENTION(16, 3, 3)
ATTENTION(32, 3, 3)
ATTENTION(48, 3, 2)
ATTENTION(64, 3, 2)
ATTENTION(80, 3, 2)
ATTENTION(96, 2, 2)
