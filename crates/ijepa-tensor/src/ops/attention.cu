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

DEVICE float quad_max(float value) {
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 1));
    return fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 2));
}

DEVICE float quad_sum(float value) {
    value += __shfl_xor_sync(ALL_LANES, value, 1);
    return value + __shfl_xor_sync(ALL_LANES, value, 2);
}

// Scores (16, TILE) of this warp's queries, those of keys from `keys` on left out, become e^(score − largest so far); `out` and
// `total` are scaled to the new largest.
template <int E>
DEVICE void soften(float (&scores)[KEYS][2][4], float (&out)[E / 8][4], float (&largest)[2], float (&total)[2], int keys, float scale) {
    const float nothing = __uint_as_float(0xff800000u);  // −∞
    float next[2] = {largest[0], largest[1]};
#pragma unroll
    for (int i = 0; i < KEYS * 8; i++) {
        float& score = scores[i / 8][i / 4 % 2][i % 4];
        const int key = i / 4 * 8 + lane() % 4 * 2 + i % 2;
        score = key < keys ? score * scale : nothing;
        next[i / 2 % 2] = fmaxf(next[i / 2 % 2], score);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        next[half] = quad_max(next[half]);
        const float factor = exp2f(largest[half] - next[half]);
        largest[half] = next[half];
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
        score = exp2f(score - largest[i / 2 % 2]);
        total[i / 2 % 2] += score;
    }
}

template <int E>
DEVICE void forward(bf16* out, float* sums, const bf16* q, int q_stride, const bf16* kv, int kv_stride, int t, int n, int heads,
                    int head, bf16* shared) {
    const Head at = head_of(q, q_stride, kv, kv_stride, t, n, heads, head);
    const int first = blockIdx.x * TILE, width = heads * head;
    bf16* const keys = shared;
    bf16* const values = shared + TILE * Stride<E>::VALUE;
    u32 query[E / 16][4];
    load_tile<E>(keys, at.q + static_cast<size_t>(first) * q_stride, q_stride, t - first, head);
    __syncthreads();
    load_left<E>(query, keys);
    float result[E / 8][4] = {};
    float largest[2], total[2] = {0.0f, 0.0f};
    fill(largest, __uint_as_float(0xff800000u));
    const float scale = LOG2_E / sqrtf(static_cast<float>(head));
    for (int key = 0; key < n; key += TILE) {
        __syncthreads();
        load_tile<E>(keys, at.k + static_cast<size_t>(key) * kv_stride, kv_stride, n - key, head);
        load_tile<E>(values, at.v + static_cast<size_t>(key) * kv_stride, kv_stride, n - key, head);
        __syncthreads();
        float scores[KEYS][2][4] = {};
#pragma unroll
        for (int k = 0; k < KEYS; k++) multiply_rows<E>(scores[k], query, keys, k * 16);
        soften<E>(scores, result, largest, total, n - key, scale);
#pragma unroll
        for (int k = 0; k < KEYS; k++) {
            u32 left[4];
            as_left(left, scores[k]);
            multiply_columns<E>(result, left, values, k * 16);
        }
    }
    total[0] = quad_sum(total[0]);
    total[1] = quad_sum(total[1]);
    bf16* to = out + (static_cast<size_t>(blockIdx.z) * t + first) * width + blockIdx.y * head;
    store_rows<E>(to, width, t - first, head, result, 1.0f / total[0], 1.0f / total[1]);
    const int row = first + warp() * 16 + lane() / 4;
    float* sum = sums + (static_cast<size_t>(blockIdx.z) * heads + blockIdx.y) * t;
    if (lane() % 4 == 0) {
        if (row < t) sum[row] = largest[0] * LN_2 + logf(total[0]);
        if (row + 8 < t) sum[row + 8] = largest[1] * LN_2 + logf(total[1]);
    }
}

// Scores become P = e^(score − log sum), and ds = P∘(dP − mean); `log_sum` and `mean` of element c of block b are at [b][c].
DEVICE void score_gradients(float (&scores)[2][4], float (&ds)[2][4], const float (&log_sum)[2][4], const float (&mean)[2][4],
                            float scale) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float p = exp2f(scores[i / 4][i % 4] * scale - log_sum[i / 4][i % 4]);
        scores[i / 4][i % 4] = p;
        ds[i / 4][i % 4] = p * (ds[i / 4][i % 4] - mean[i / 4][i % 4]);
    }
}

template <int E>
DEVICE void backward_queries(bf16* dq, int dq_stride, const bf16* dout, const float* sums, const float* means, const bf16* q,
                             int q_stride, const bf16* kv, int kv_stride, int t, int n, int heads, int head, bf16* shared) {
    const Head at = head_of(q, q_stride, kv, kv_stride, t, n, heads, head);
    const int first = blockIdx.x * TILE, width = heads * head;
    bf16* const keys = shared;
    bf16* const values = shared + TILE * Stride<E>::VALUE;
    const bf16* dout_at = dout + (static_cast<size_t>(blockIdx.z) * t + first) * width + blockIdx.y * head;
    load_tile<E>(keys, at.q + static_cast<size_t>(first) * q_stride, q_stride, t - first, head);
    load_tile<E>(values, dout_at, width, t - first, head);
    __syncthreads();
    u32 query[E / 16][4], gradient[E / 16][4];
    load_left<E>(query, keys);
    load_left<E>(gradient, values);
    const size_t row = (static_cast<size_t>(blockIdx.z) * heads + blockIdx.y) * t + first + warp() * 16 + lane() / 4;
    const int left_over = t - first - warp() * 16 - lane() / 4;
    float log_sum[2][4], mean[2][4];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int half = i / 2 % 2;
        const bool inside = half * 8 < left_over;
        log_sum[i / 4][i % 4] = inside ? sums[row + half * 8] * LOG2_E : 0.0f;
        mean[i / 4][i % 4] = inside ? means[row + half * 8] : 0.0f;
    }
    const float scale = 1.0f / sqrtf(static_cast<float>(head));
    float result[E / 8][4] = {};
    for (int key = 0; key < n; key += TILE) {
        __syncthreads();
        load_tile<E>(keys, at.k + static_cast<size_t>(key) * kv_stride, kv_stride, n - key, head);
        load_tile<E>(values, at.v + static_cast<size_t>(key) * kv_stride, kv_stride, n - key, head);
        __syncthreads();
        for (int k = 0; k < TILE && key + k < n; k += 16) {
            float scores[2][4] = {}, ds[2][4] = {};
            multiply_rows<E>(scores, query, keys, k);
            multiply_rows<E>(ds, gradient, values, k);
            score_gradients(scores, ds, log_sum, mean, scale * LOG2_E);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                if (key + k + i / 4 * 8 + lane() % 4 * 2 + i % 2 >= n) ds[i / 4][i % 4] = 0.0f;
            }
            u32 left[4];
            as_left(left, ds);
            multiply_columns<E>(result, left, keys, k);
        }
    }
    bf16* to = dq + (static_cast<size_t>(blockIdx.z) * t + first) * dq_stride + blockIdx.y * head;
    store_rows<E>(to, dq_stride, t - first, head, result, scale, scale);
}

// log sums (times log₂ e) and means of up to TILE queries, so that what lies beyond them gives P = 0.
DEVICE void load_row_values(float* log_sums, float* row_means, const float* sums, const float* means, int count) {
    for (int i = threadIdx.x; i < TILE; i += TILE_WARPS * WARP) {
        log_sums[i] = i < count ? sums[i] * LOG2_E : __uint_as_float(0x7f800000u);  // ∞
        row_means[i] = i < count ? means[i] : 0.0f;
    }
}

template <int E>
DEVICE void backward_keys(bf16* dkv, int dkv_stride, const bf16* dout, const float* sums, const float* means, const bf16* q,
                          int q_stride, const bf16* kv, int kv_stride, int t, int n, int heads, int head, bf16* shared) {
    const Head at = head_of(q, q_stride, kv, kv_stride, t, n, heads, head);
    const int first = blockIdx.x * TILE, width = heads * head;
    bf16* const queries = shared;
    bf16* const gradients = shared + TILE * Stride<E>::VALUE;
    float* const log_sums = reinterpret_cast<float*>(gradients + TILE * Stride<E>::VALUE);
    float* const row_means = log_sums + TILE;
    load_tile<E>(queries, at.k + static_cast<size_t>(first) * kv_stride, kv_stride, n - first, head);
    load_tile<E>(gradients, at.v + static_cast<size_t>(first) * kv_stride, kv_stride, n - first, head);
    __syncthreads();
    u32 key[E / 16][4], value[E / 16][4];
    load_left<E>(key, queries);
    load_left<E>(value, gradients);
    const bf16* dout_at = dout + static_cast<size_t>(blockIdx.z) * t * width + blockIdx.y * head;
    const size_t row = (static_cast<size_t>(blockIdx.z) * heads + blockIdx.y) * t;
    const float scale = 1.0f / sqrtf(static_cast<float>(head));
    float dkey[E / 8][4] = {}, dvalue[E / 8][4] = {};
    for (int query = 0; query < t; query += TILE) {
        __syncthreads();
        load_tile<E>(queries, at.q + static_cast<size_t>(query) * q_stride, q_stride, t - query, head);
        load_tile<E>(gradients, dout_at + static_cast<size_t>(query) * width, width, t - query, head);
        load_row_values(log_sums, row_means, sums + row + query, means + row + query, t - query);
        __syncthreads();
        for (int k = 0; k < TILE && query + k < t; k += 16) {
            float scores[2][4] = {}, ds[2][4] = {}, log_sum[2][4], mean[2][4];
            multiply_rows<E>(scores, key, queries, k);
            multiply_rows<E>(ds, value, gradients, k);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const int column = k + i / 4 * 8 + lane() % 4 * 2 + i % 2;
                log_sum[i / 4][i % 4] = log_sums[column];
                mean[i / 4][i % 4] = row_means[column];
            }
            score_gradients(scores, ds, log_sum, mean, scale * LOG2_E);
            u32 left[4];
            as_left(left, scores);
            multiply_columns<E>(dvalue, left, gradients, k);
            as_left(left, ds);
            multiply_columns<E>(dkey, left, queries, k);
        }
    }
    bf16* to = dkv + (static_cast<size_t>(blockIdx.z) * n + first) * dkv_stride + blockIdx.y * head;
    store_rows<E>(to, dkv_stride, n - first, head, dkey, scale, scale);
    store_rows<E>(to + width, dkv_stride, n - first, head, dvalue, 1.0f, 1.0f);
}

// means (b, h, t) = the sum of dout∘out over each head; both (b·t, d). A warp a row and head.
KERNEL attention_means(float* means, const bf16* dout, const bf16* out, int rows, int t, int heads, int head) {
    const int number = warp_row();
    if (number >= rows * heads) return;
    const int row = number / heads, h = number % heads;
    const size_t begin = static_cast<size_t>(row) * heads * head + static_cast<size_t>(h) * head;
    float sum = 0.0f;
    for (int i = lane(); i < head; i += WARP) sum += widen(dout[begin + i]) * widen(out[begin + i]);
    sum = warp_sum(sum);
    if (lane() == 0) means[(static_cast<size_t>(row / t) * heads + h) * t + row % t] = sum;
}

// For each padded width of a head, blocks of TILE_WARPS warps, (tiles, heads, sequences) of them:
// forward: out (b·t, d) =, sums (b, h, t) = log Σ_j e^(s·q·k_j); q (b·t, ·) and kv (b·n, ·), k before v, in rows `stride` apart;
// backward_queries: dq =; backward_keys: dkv =; dout (b·t, d), `sums` of the forward pass and `means` of attention_means.
#define ATTENTION(E)                                                                                                            \
    KERNEL attention_forward_##E(bf16* out, float* sums, const bf16* q, const bf16* kv, int q_stride, int kv_stride, int t,     \
                                 int n, int heads, int head) {                                                                  \
        DYNAMIC_SHARED(bf16, shared);                                                                                           \
        forward<E>(out, sums, q, q_stride, kv, kv_stride, t, n, heads, head, shared);                                           \
    }                                                                                                                           \
    KERNEL attention_backward_queries_##E(bf16* dq, const bf16* dout, const float* sums, const float* means, const bf16* q,     \
                                          const bf16* kv, int dq_stride, int q_stride, int kv_stride, int t, int n, int heads,  \
                                          int head) {                                                                           \
        DYNAMIC_SHARED(bf16, shared);                                                                                           \
        backward_queries<E>(dq, dq_stride, dout, sums, means, q, q_stride, kv, kv_stride, t, n, heads, head, shared);           \
    }                                                                                                                           \
    KERNEL attention_backward_keys_##E(bf16* dkv, const bf16* dout, const float* sums, const float* means, const bf16* q,       \
                                       const bf16* kv, int dkv_stride, int q_stride, int kv_stride, int t, int n, int heads,    \
                                       int head) {                                                                              \
        DYNAMIC_SHARED(bf16, shared);                                                                                           \
        backward_keys<E>(dkv, dkv_stride, dout, sums, means, q, q_stride, kv, kv_stride, t, n, heads, head, shared);            \
    }

ATTENTION(16)
ATTENTION(32)
ATTENTION(48)
ATTENTION(64)
ATTENTION(80)
ATTENTION(96)
