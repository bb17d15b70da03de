// The functions of NVIDIA's driver that the program uses, with the CPU in the place of a GPU: memory is main memory, and a launch
// runs the kernel in shim.cpp before it returns. What a kernel did wrong is the text of the error.
#include "shim.h"

#include <stdio.h>
#include <stdlib.h>

extern "C" {
const char* shim_launch(const char* name, const char* kinds, const u32* grid, u32 threads, u32 shared, void** arguments, u64 seed);
const char* shim_find(const char* name);
// Whether something that fake_nccl.cpp has started still works.
bool shim_works();
}

namespace {

const int INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, NOT_READY = 600, LAUNCH_FAILED = 719;
const size_t DEVICE_BYTES = size_t(1) << 30;
const char* problem = "";
// Types of the next launch's arguments, which the driver does not see, or null where nobody has said; the order of threads.
const char* expected_kinds;
u64 order_seed;
int streams, contexts;

}  // namespace

extern "C" {

void shim_expect(const char* kinds, u64 seed) {
    expected_kinds = kinds;
    order_seed = seed;
}

int cuInit(u32) { return 0; }
int cuGetErrorString(int code, const char** text) {
    *text = code == LAUNCH_FAILED ? problem : code == NOT_FOUND ? "not found" : code == OUT_OF_MEMORY ? "out of memory" : "invalid value";
    return 0;
}
// As many as SHIM_GPUS says: each process has one, whatever its number.
int cuDeviceGetCount(int* count) {
    const char* said = getenv("SHIM_GPUS");
    *count = said == nullptr ? 1 : atoi(said);
    return 0;
}
int cuDeviceGet(int* device, int number) {
    int count;
    cuDeviceGetCount(&count);
    *device = number;
    return number >= 0 && number < count ? 0 : INVALID_VALUE;
}
int cuDeviceGetName(char* name, int len, int) {
    snprintf(name, len, "a CPU in the place of a GPU");
    return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
    if (attribute != 75 && attribute != 76) return INVALID_VALUE;
    *value = attribute == 75 ? 8 : 0;
    return 0;
}
int cuDeviceTotalMem_v2(size_t* bytes, int) {
    *bytes = DEVICE_BYTES;
    return 0;
}
int cuDevicePrimaryCtxSetFlags_v2(int, u32 flags) { return flags == 4 ? 0 : INVALID_VALUE; }
int cuDevicePrimaryCtxRetain(void** context, int) {
    contexts++;
    *context = &contexts;
    return 0;
}
int cuDevicePrimaryCtxRelease_v2(int) { return --contexts < 0 ? INVALID_VALUE : 0; }
int cuCtxSetCurrent(void* context) { return context == &contexts ? 0 : INVALID_VALUE; }
int cuStreamCreate(void** stream, u32 flags) {
    streams++;
    *stream = &streams;
    return flags == 1 ? 0 : INVALID_VALUE;
}
int cuStreamSynchronize(void* stream) { return stream == &streams ? 0 : INVALID_VALUE; }
int cuStreamQuery(void* stream) {
    if (stream != &streams) return INVALID_VALUE;
    return shim_works() ? NOT_READY : 0;
}
int cuStreamDestroy_v2(void* stream) { return stream == &streams && --streams >= 0 ? 0 : INVALID_VALUE; }
int cuMemAlloc_v2(u64* address, size_t bytes) {
    if (bytes == 0) return INVALID_VALUE;
    if (bytes > DEVICE_BYTES) return OUT_OF_MEMORY;
    *address = reinterpret_cast<u64>(aligned_alloc(256, (bytes + 255) / 256 * 256));
    return 0;
}
int cuMemFree_v2(u64 address) {
    free(reinterpret_cast<void*>(address));
    return 0;
}
int cuMemAllocHost_v2(void** pointer, size_t bytes) {
    *pointer = malloc(bytes);
    return *pointer == nullptr ? INVALID_VALUE : 0;
}
int cuMemFreeHost(void* pointer) {
    free(pointer);
    return 0;
}
int cuMemcpyDtoDAsync_v2(u64 to, u64 from, size_t bytes, void*) {
    memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
    return 0;
}
int cuMemcpyHtoDAsync_v2(u64 to, const void* from, size_t bytes, void*) {
    memcpy(reinterpret_cast<void*>(to), from, bytes);
    return 0;
}
int cuMemcpyDtoHAsync_v2(void* to, u64 from, size_t bytes, void*) {
    memcpy(to, reinterpret_cast<const void*>(from), bytes);
    return 0;
}
int cuModuleLoadData(void** module, const void*) {
    static int all;
    *module = &all;
    return 0;
}
int cuModuleUnload(void*) { return 0; }
// A function is its name.
int cuModuleGetFunction(void** function, void*, const char* name) {
    const char* found = shim_find(name);
    *function = const_cast<char*>(found);
    return found == nullptr ? NOT_FOUND : 0;
}
int cuLaunchKernel(void* function, u32 x, u32 y, u32 z, u32 threads, u32 threads_y, u32 threads_z, u32 shared, void* stream,
                   void** arguments, void** extra) {
    if (threads_y != 1 || threads_z != 1 || stream != &streams || extra != nullptr) return INVALID_VALUE;
    const u32 grid[3] = {x, y, z};
    problem = shim_launch(static_cast<const char*>(function), expected_kinds, grid, threads, shared, arguments, order_seed);
    expected_kinds = nullptr;
    return problem == nullptr ? 0 : LAUNCH_FAILED;
}
}
