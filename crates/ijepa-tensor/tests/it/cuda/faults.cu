// Kernels that do what they must not: what the checks of shim.cpp are checked with. Each is right when `fault` is 0.
#include "tiles.cuh"

KERNEL neighbour_without_barrier(float* y, int fault) {
    DYNAMIC_SHARED(float, shared);
    shared[threadIdx.x] = 0.0f;
    __syncthreads();
    shared[threadIdx.x] = threadIdx.x;
    if (!fault) __syncthreads();
    y[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
}

KERNEL read_before_write(float* y, int fault) {
    DYNAMIC_SHARED(float, shared);
    if (threadIdx.x > 0 || !fault) shared[threadIdx.x] = 1.0f;
    __syncthreads();
    y[threadIdx.x] = shared[threadIdx.x];
}

KERNEL barrier_for_some(float* y, int fault) {
    y[threadIdx.x] = 0.0f;
    if (fault && threadIdx.x == 5) return;
    __syncthreads();
}

KERNEL shuffle_for_some(float* y, int fault) {
    float value = 1.0f;
    if (fault && threadIdx.x < 8) {
        __syncwarp();
    } else {
        value = warp_sum(value);
    }
    y[threadIdx.x] = value;
}

KERNEL beyond_the_buffer(float* y, int fault) { y[threadIdx.x + fault] = 1.0f; }

KERNEL before_the_buffer(float* y, int fault) {
    const float before = fault && threadIdx.x == 0 ? y[-1] : 0.0f;
    y[threadIdx.x] = before;
}

KERNEL beyond_shared_memory(float* y, int fault) {
    DYNAMIC_SHARED(float, shared);
    shared[threadIdx.x + fault] = 1.0f;
    y[threadIdx.x] = 1.0f;
}

// A warp barrier orders the lanes of a warp, and nothing else.
KERNEL warp_barrier_between_warps(float* y, int fault) {
    DYNAMIC_SHARED(float, shared);
    shared[threadIdx.x] = 0.0f;
    __syncthreads();
    shared[threadIdx.x] = threadIdx.x;
    __syncwarp();
    y[threadIdx.x] = shared[fault ? (threadIdx.x + WARP) % blockDim.x : threadIdx.x ^ 1];
}

// What is copied is there when its thread has waited for it.
KERNEL copy_not_waited_for(float* y, int fault) {
    DYNAMIC_SHARED(float, shared);
    shared[threadIdx.x] = 0.0f;
    y[threadIdx.x] = 1.0f;
    copy_later<4>(shared + threadIdx.x, y + threadIdx.x, true);
    if (fault) return;
    arrive();
    y[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
}

// A copy may write before anybody waits for it.
KERNEL copy_over_what_others_read(float* y, int fault) {
    DYNAMIC_SHARED(float, shared);
    shared[threadIdx.x] = threadIdx.x;
    __syncthreads();
    const float value = shared[(threadIdx.x + 1) % blockDim.x];
    if (!fault) __syncthreads();
    copy_later<4>(shared + threadIdx.x, y + threadIdx.x, true);
    arrive();
    y[threadIdx.x] = value;
}
