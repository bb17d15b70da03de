// The functions of NVIDIA's driver that the program uses, with the CPU in the place of a GPU: memory is main memory, and kernels run in
// shim.cpp, when streams.h says. What a kernel did wrong is the text of the error.
#include "streams.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "ptx.h"
#include "shim.h"

extern "C" {
const char* shim_launch(const char* name, const char* kinds, const u32* grid, u32 threads, u32 shared, void** arguments, u64 seed);
const char* shim_find(const char* name);
const char* shim_kinds(const char* name);
}

namespace {

const int INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, NOT_READY = 600, INVALID_PTX = 218, LAUNCH_FAILED = 719;
const size_t DEVICE_BYTES = size_t(1) << 30;
const char* problem = "";
// Types of the next launch's arguments, which the driver does not see, or null where nobody has said; the order of threads.
const char* expected_kinds;
u64 order_seed;
std::atomic<int> contexts;
// Shared memory that functions of this thread asked to be allowed.
thread_local std::map<const char*, u32> shared_limits;

struct Stream {
    std::deque<std::function<bool()>> work;
    // Of ops: others go first.
    bool ops = false;
    // Of work, since the stream was made.
    u64 asked = 0, done = 0;
    int failed = 0;

    // Does work up to a place; whether it has come so far.
    bool reach(u64 place) {
        for (; done < place; done++) {
            if (!work.front()()) return false;
            work.pop_front();
        }
        return true;
    }
    int error() {
        const int code = failed;
        failed = 0;
        return code;
    }
};

struct Event {
    // The stream may be gone: then it has done all.
    std::weak_ptr<Stream> stream;
    u64 place = 0;
};

// Each thread that uses a GPU does so alone: only the list is common.
std::mutex listing;
std::vector<std::shared_ptr<Stream>> streams;
// Memory of the GPU: addresses, and bytes.
std::map<u64, size_t> allocated;

std::shared_ptr<Stream> find(const void* handle) {
    const std::lock_guard<std::mutex> lock(listing);
    for (const auto& stream : streams)
        if (stream.get() == handle) return stream;
    return nullptr;
}

// What this thread has said, or null.
thread_local const char* order_of_streams;

bool is_late(const Stream& stream) {
    const char* said = order_of_streams != nullptr ? order_of_streams : getenv("SHIM_STREAMS");
    return said != nullptr && (strcmp(said, "late") == 0 || (strcmp(said, "ops late") == 0 && stream.ops));
}

// Puts work on a stream that is done in one go.
int put(void* handle, std::function<void()> work) {
    const bool put = shim_enqueue(handle, [work = std::move(work)] {
        work();
        return true;
    });
    return put ? find(handle)->error() : INVALID_VALUE;
}

int copy(void* to, const void* from, size_t bytes, void* stream) {
    return put(stream, [=] { memmove(to, from, bytes); });
}

// Waits for a stream, which may wait for other processes.
int wait(Stream& stream, u64 place) {
    while (!stream.reach(place)) usleep(50);
    return stream.error();
}

}  // namespace

bool shim_enqueue(void* handle, std::function<bool()> work) {
    const auto stream = find(handle);
    if (stream == nullptr) return false;
    stream->work.push_back(std::move(work));
    stream->asked++;
    if (!is_late(*stream)) stream->reach(stream->asked);
    return true;
}

extern "C" {

bool shim_is_memory(u64 address, size_t size) {
    const std::lock_guard<std::mutex> lock(listing);
    const auto above = allocated.upper_bound(address);
    if (above == allocated.begin()) return false;
    const auto& [begin, bytes] = *std::prev(above);
    return address - begin <= bytes && size <= bytes - (address - begin);
}

void shim_expect(const char* kinds, u64 seed) {
    expected_kinds = kinds;
    order_seed = seed;
}

// One of the words above, for the streams of this thread.
void shim_streams(const char* order) { order_of_streams = order; }

int cuInit(u32) { return 0; }
int cuGetErrorString(int code, const char** text) {
    *text = code == LAUNCH_FAILED || code == INVALID_PTX ? problem : code == NOT_FOUND ? "not found" : code == OUT_OF_MEMORY ? "out of memory" : "invalid value";
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
int cuStreamCreateWithPriority(void** handle, u32 flags, int priority) {
    if (priority > 0) return INVALID_VALUE;
    const auto stream = std::make_shared<Stream>();
    stream->ops = priority == 0;
    *handle = stream.get();
    const std::lock_guard<std::mutex> lock(listing);
    streams.push_back(stream);
    return flags == 1 ? 0 : INVALID_VALUE;
}
int cuStreamSynchronize(void* handle) {
    const auto stream = find(handle);
    return stream == nullptr ? INVALID_VALUE : wait(*stream, stream->asked);
}
int cuStreamQuery(void* handle) {
    const auto stream = find(handle);
    if (stream == nullptr) return INVALID_VALUE;
    return stream->reach(stream->asked) ? stream->error() : NOT_READY;
}
int cuStreamWaitEvent(void* handle, Event* event, u32 flags) {
    const auto other = event->stream.lock();
    const u64 place = event->place;
    if (flags != 0) return INVALID_VALUE;
    return shim_enqueue(handle, [=] { return other == nullptr || other->reach(place); }) ? 0 : INVALID_VALUE;
}
int cuStreamDestroy_v2(void* handle) {
    const auto stream = find(handle);
    if (stream == nullptr) return INVALID_VALUE;
    // What waits for others that are gone stays undone.
    stream->reach(stream->asked);
    const std::lock_guard<std::mutex> lock(listing);
    streams.erase(std::find(streams.begin(), streams.end(), stream));
    return 0;
}
int cuEventCreate(Event** event, u32 flags) {
    *event = new Event();
    return flags == 3 ? 0 : INVALID_VALUE;
}
int cuEventRecord(Event* event, void* handle) {
    const auto stream = find(handle);
    if (stream == nullptr) return INVALID_VALUE;
    event->stream = stream;
    event->place = stream->asked;
    return 0;
}
int cuEventSynchronize(Event* event) {
    const auto stream = event->stream.lock();
    return stream == nullptr ? 0 : wait(*stream, event->place);
}
int cuEventDestroy_v2(Event* event) {
    delete event;
    return 0;
}
int cuMemAlloc_v2(u64* address, size_t bytes) {
    if (bytes == 0) return INVALID_VALUE;
    if (bytes > DEVICE_BYTES) return OUT_OF_MEMORY;
    *address = reinterpret_cast<u64>(aligned_alloc(256, (bytes + 255) / 256 * 256));
    const std::lock_guard<std::mutex> lock(listing);
    allocated[*address] = bytes;
    return 0;
}
// After all that may use it, as the driver does.
int cuMemFree_v2(u64 address) {
    std::vector<std::shared_ptr<Stream>> all;
    {
        const std::lock_guard<std::mutex> lock(listing);
        for (const auto& stream : streams)
            if (is_late(*stream)) all.push_back(stream);
    }
    for (const auto& stream : all) stream->reach(stream->asked);
    const std::lock_guard<std::mutex> lock(listing);
    allocated.erase(address);
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
int cuMemcpyDtoDAsync_v2(u64 to, u64 from, size_t bytes, void* stream) {
    return copy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes, stream);
}
int cuMemcpyHtoDAsync_v2(u64 to, const void* from, size_t bytes, void* stream) {
    return copy(reinterpret_cast<void*>(to), from, bytes, stream);
}
int cuMemcpyDtoHAsync_v2(void* to, u64 from, size_t bytes, void* stream) {
    return copy(to, reinterpret_cast<const void*>(from), bytes, stream);
}
int cuModuleLoadData(void** module, const void* code) {
    static int all;
    const char* wrong = ptx_is_wanted() ? ptx_load(static_cast<const char*>(code)) : nullptr;
    if (wrong != nullptr) {
        problem = wrong;
        return INVALID_PTX;
    }
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
int cuFuncSetAttribute(void* function, int attribute, int value) {
    const int MOST_SHARED = 8, ANY_CARD = 99 << 10;
    if (attribute != MOST_SHARED || value < 0 || value > ANY_CARD) return INVALID_VALUE;
    shared_limits[static_cast<const char*>(function)] = static_cast<u32>(value);
    return 0;
}
int cuLaunchKernel(void* function, u32 x, u32 y, u32 z, u32 threads, u32 threads_y, u32 threads_z, u32 shared, void* stream,
                   void** arguments, void** extra) {
    if (threads_y != 1 || threads_z != 1 || extra != nullptr) return INVALID_VALUE;
    const char* name = static_cast<const char*>(function);
    if (x == 0 || y == 0 || z == 0 || y > 65535 || z > 65535 || threads == 0 || threads > 1024) return INVALID_VALUE;
    const auto limit = shared_limits.find(name);
    if (shared > (limit == shared_limits.end() ? 48 << 10 : limit->second)) return INVALID_VALUE;
    // The caller's arguments are gone when the kernel runs.
    std::vector<u64> values;
    const char* kinds = expected_kinds;
    for (const char* kind = kinds != nullptr ? kinds : shim_kinds(name); *kind != 0; kind++) {
        values.push_back(0);
        memcpy(&values.back(), arguments[values.size() - 1], *kind == 'i' || *kind == 'f' ? 4 : 8);
    }
    const u64 seed = order_seed;
    const bool of_ptx = ptx_is_wanted();
    expected_kinds = nullptr;
    const auto asked = find(stream);
    return put(stream, [=]() mutable {
        std::vector<void*> places;
        for (u64& value : values) places.push_back(&value);
        const u32 grid[3] = {x, y, z};
        const char* wrong = of_ptx ? ptx_launch(name, shim_kinds(name), grid, threads, shared, places.data())
                                   : shim_launch(name, kinds, grid, threads, shared, places.data(), seed);
        if (wrong == nullptr) return;
        problem = wrong;
        asked->failed = LAUNCH_FAILED;
    });
}
}
