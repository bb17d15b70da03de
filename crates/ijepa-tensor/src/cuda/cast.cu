// Values rounded, and constants.
#include "device.cuh"

// y (len) = x, rounded. A thread has 4 values.
KERNEL cast_to_bf16(bf16* y, const float* x, u64 len) {
    const u64 begin = (static_cast<u64>(blockIdx.x) * blockDim.x) * 4 + threadIdx.x;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const u64 at = begin + static_cast<u64>(i) * blockDim.x;
        if (at < len) y[at] = narrow(x[at]);
    }
}

// y (len) = value. A thread has 4 values.
KERNEL fill_f32(float* y, float value, u64 len) {
    const u64 begin = (static_cast<u64>(blockIdx.x) * blockDim.x) * 4 + threadIdx.x;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const u64 at = begin + static_cast<u64>(i) * blockDim.x;
        if (at < len) y[at] = value;
    }
}
