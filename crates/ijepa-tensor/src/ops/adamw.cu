// AdamW, the moving average that follows it, and the bf16 copies of both that products read, in one pass; see adamw.rs.
#include "device.cuh"

// Values that are learnt alike; one block's work.
struct Piece {
    u64 first;
    u64 len;
    u64 moments;  // where the first one's lie
    double weight_decay;
    double rate;
};

// params (len), their moments m and v, and average (averaged) are updated; params_bf16 (len) and average_bf16 (averaged) become their copies.
// unbiased1 = 1 − β₁ᵏ, inverse_root = 1/√(1 − β₂ᵏ). A block a piece.
KERNEL adamw(float* params, float* m, float* v, float* average, bf16* params_bf16, bf16* average_bf16, const float* grads,
             const Piece* pieces, u64 averaged, double learning_rate, double unbiased1, float new1, float old2, float new2,
             float inverse_root, float eps, float old_average, float new_average) {
    const Piece piece = pieces[blockIdx.x];
    const double rate = learning_rate * piece.rate;
    const float keep = static_cast<float>(1.0 - rate * piece.weight_decay);
    const float step_size = static_cast<float>(rate / unbiased1);
#pragma unroll 4
    for (u64 i = threadIdx.x; i < piece.len; i += blockDim.x) {
        const u64 at = piece.first + i, moments = piece.moments + i;
        const float g = grads[at];
        const float first_moment = m[moments] + (g - m[moments]) * new1;
        const float second_moment = v[moments] * old2 + new2 * g * g;
        const float param = params[at] * keep - step_size * (first_moment / (sqrtf(second_moment) * inverse_root + eps));
        m[moments] = first_moment;
        v[moments] = second_moment;
        params[at] = param;
        params_bf16[at] = narrow(param);
        if (at < averaged) {
            const float mean = average[at] * old_average + param * new_average;
            average[at] = mean;
            average_bf16[at] = narrow(mean);
        }
    }
}

// For parameters that have moved already, here or elsewhere: average (averaged) follows, and both have their copies. A block a piece.
KERNEL follow(float* average, bf16* average_bf16, bf16* params_bf16, const float* params, const Piece* pieces, u64 averaged,
              float old_average, float new_average) {
    const Piece piece = pieces[blockIdx.x];
    const u64 last = piece.first + piece.len;
#pragma unroll 4
    for (u64 at = piece.first + threadIdx.x; at < last; at += blockDim.x) {
        const float param = params[at];
        params_bf16[at] = narrow(param);
        if (at < averaged) {
            const float mean = average[at] * old_average + param * new_average;
            average[at] = mean;
            average_bf16[at] = narrow(mean);
        }
    }
}
