// What a linear layer needs beside its products: sums of columns, in two stages whose order the shape alone decides.
#include "device.cuh"

template <int N>
DEVICE void part_of_columns(float* parts, const bf16* x, Rows rows, int count, int width, int stripe, float* scratch) {
    const int column = (blockIdx.x * WARP + lane()) * N;
    const int first = blockIdx.y * stripe;
    float sum[N];
    sum_columns(sum, scratch, x, rows, first, min(first + stripe, count), width, column);
    if (warp() == 0 && column < width) store_floats(parts + static_cast<size_t>(blockIdx.y) * width + column, sum);
}

// parts (stripes, width) = sums of x over `stripe` of `count` rows each: in every run of rows of x, the first `skip` are left
// out and the next `run` counted. Blocks are (columns, stripes) of COLUMN_WARPS warps.
KERNEL column_parts(float* parts, const bf16* x, int count, int width, int run, int skip, int stripe) {
    DYNAMIC_SHARED(float, scratch);
    const Rows rows = {run, skip};
    if (packed(width)) {
        part_of_columns<8>(parts, x, rows, count, width, stripe, scratch);
    } else {
        part_of_columns<1>(parts, x, rows, count, width, stripe, scratch);
    }
}

// out (width) = or += (`add`) the sum of `count` parts, `stride` values apart. A block of COLUMN_WARPS warps for 32 columns.
KERNEL add_parts(float* out, int add, const float* parts, int count, int stride, int width) {
    DYNAMIC_SHARED(float, scratch);
    const int column = blockIdx.x * WARP + lane();
    float sum = 0.0f;
    if (column < width) {
        for (int part = warp(); part < count; part += COLUMN_WARPS) sum += parts[static_cast<size_t>(part) * stride + column];
    }
    scratch[threadIdx.x] = sum;
    __syncthreads();
    if (warp() == 0 && column < width) {
        for (int other = 1; other < COLUMN_WARPS; other++) sum += scratch[other * WARP + lane()];
        out[column] = add ? out[column] + sum : sum;
    }
}
