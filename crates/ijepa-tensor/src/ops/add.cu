// Sums of two gradients.
#include "device.cuh"

// sum (len) += x. A thread has 8 values.
KERNEL add_forward(bf16* sum, const bf16* x, u64 len) {
    const u64 at = (static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
    if (at + 8 <= len) {
        float total[8], value[8];
        Lanes<8>::load(total, sum + at);
        Lanes<8>::load(value, x + at);
#pragma unroll
        for (int i = 0; i < 8; i++) total[i] += value[i];
        Lanes<8>::store(sum + at, total);
        return;
    }
    for (u64 i = at; i < len; i++) sum[i] = narrow(widen(sum[i]) + widen(x[i]));
}
