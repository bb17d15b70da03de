// Sums over many values, in double precision and in an order that the length alone decides.
#include "device.cuh"

// parts (blocks) = the sum of squares of `stripe` values of x each.
KERNEL square_parts(double* parts, const float* x, u64 len, u64 stripe) {
    DYNAMIC_SHARED(double, scratch);
    const u64 first = blockIdx.x * stripe;
    const u64 last = first + stripe < len ? first + stripe : len;
    double sum = 0.0;
    for (u64 at = first + threadIdx.x; at < last; at += blockDim.x) sum += static_cast<double>(x[at]) * x[at];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// out (1) = the sum of the parts. One block.
KERNEL sum_parts(double* out, const double* parts, u64 len) {
    DYNAMIC_SHARED(double, scratch);
    double sum = 0.0;
    for (u64 at = threadIdx.x; at < len; at += blockDim.x) sum += parts[at];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) *out = sum;
}

// out (1) = factor · the sum of the values. One block.
KERNEL sum_values(float* out, const float* values, u64 len, double factor) {
    DYNAMIC_SHARED(double, scratch);
    double sum = 0.0;
    for (u64 at = threadIdx.x; at < len; at += blockDim.x) sum += values[at];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) *out = static_cast<float>(sum * factor);
}

// deviations (width) = the standard deviation of each column of x (rows, width); sum_values gives their mean. A block for 32
// columns: each warp takes every COLUMN_WARPS-th row.
KERNEL column_deviations(float* deviations, const bf16* x, int rows, int width) {
    DYNAMIC_SHARED(double, scratch);
    const int column = blockIdx.x * WARP + lane();
    double sum = 0.0, squares = 0.0;
    if (column < width) {
        for (int row = warp(); row < rows; row += COLUMN_WARPS) {
            const double value = widen(x[static_cast<size_t>(row) * width + column]);
            sum += value;
            squares += value * value;
        }
    }
    scratch[2 * threadIdx.x] = sum;
    scratch[2 * threadIdx.x + 1] = squares;
    __syncthreads();
    if (warp() == 0 && column < width) {
        for (int other = 1; other < COLUMN_WARPS; other++) {
            sum += scratch[2 * (other * WARP + lane())];
            squares += scratch[2 * (other * WARP + lane()) + 1];
        }
        const double mean = sum / rows;
        deviations[column] = static_cast<float>(sqrt(fmax(squares / rows - mean * mean, 0.0)));
    }
}
