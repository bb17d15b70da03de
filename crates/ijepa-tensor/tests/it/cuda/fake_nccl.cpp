// The functions of NCCL that the program uses, between processes of one machine: memory is main memory, and sums are in the order of
// ranks. What a group asks for is done by a thread, when its turn on the stream has come. A rank that is gone is an
// asynchronous error, and the work stays on the stream until it is aborted; one that does nothing is waited for without an end.
#include "streams.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

namespace {

const int SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE_ERROR = 6, IN_PROGRESS = 7;
const int RANKS = 8;
const size_t CHUNK = 1 << 14;

// A message on its way from one rank to another.
struct Box {
    std::atomic<int> full;
    char content[CHUNK];
};

// What all ranks see; zero at first.
struct Shared {
    std::atomic<int> process[RANKS];
    Box boxes[RANKS][RANKS];
};

struct Gone {};
struct Aborted {};

char last_error[128];

// What a group asks for.
struct Work {
    std::vector<std::function<void()>> calls;
    std::thread thread;
    std::atomic<bool> done{false};
};

struct Communicator {
    Shared* shared;
    int rank, size;
    std::atomic<bool> aborted{false};
    std::atomic<int> error{0};
    // The group that is being asked for, and its stream; those that were.
    std::shared_ptr<Work> next = std::make_shared<Work>();
    void* stream = nullptr;
    std::vector<std::shared_ptr<Work>> works;
    // Questions that are still answered with "in progress" before the thread begins.
    int slow = 0;

    void wait(Box& box, int full, int peer) {
        while (box.full.load(std::memory_order_acquire) != full) {
            if (aborted) throw Aborted();
            const bool gone = kill(shared->process[peer], 0) != 0 && errno == ESRCH;
            if (gone && box.full.load(std::memory_order_acquire) != full) {
                snprintf(last_error, sizeof last_error, "the process of rank %d is gone", peer);
                throw Gone();
            }
            usleep(50);
        }
    }
    void send(int peer, const char* from, size_t bytes) {
        for (Box& box = shared->boxes[rank][peer]; bytes > 0;) {
            const size_t part = std::min(bytes, CHUNK);
            wait(box, 0, peer);
            memcpy(box.content, from, part);
            box.full.store(1, std::memory_order_release);
            from += part, bytes -= part;
        }
    }
    void receive(int peer, char* to, size_t bytes) {
        for (Box& box = shared->boxes[peer][rank]; bytes > 0;) {
            const size_t part = std::min(bytes, CHUNK);
            wait(box, 1, peer);
            memcpy(to, box.content, part);
            box.full.store(0, std::memory_order_release);
            to += part, bytes -= part;
        }
    }
    void reduce(int root, const float* from, float* to, size_t count) {
        if (rank != root) return send(root, reinterpret_cast<const char*>(from), count * sizeof(float));
        std::vector<float> sum(count), part(count);
        for (int peer = 0; peer < size; peer++) {
            if (peer == root) memcpy(part.data(), from, count * sizeof(float));
            else receive(peer, reinterpret_cast<char*>(part.data()), count * sizeof(float));
            for (size_t i = 0; i < count; i++) sum[i] = peer == 0 ? part[i] : sum[i] + part[i];
        }
        memcpy(to, sum.data(), count * sizeof(float));
    }
    void broadcast(int root, const char* from, char* to, size_t bytes) {
        if (rank != root) return receive(root, to, bytes);
        for (int peer = 0; peer < size; peer++)
            if (peer != root) send(peer, from, bytes);
        memmove(to, from, bytes);
    }

    // Puts the group on its stream.
    bool begin() {
        const std::shared_ptr<Work> work = next;
        works.push_back(work);
        next = std::make_shared<Work>();
        return shim_enqueue(stream, [this, work] {
            if (work->done) return true;
            if (!work->thread.joinable()) work->thread = std::thread([this, work] { run(*work); });
            return false;
        });
    }
    void run(Work& work) {
        try {
            for (const auto& call : work.calls) call();
        } catch (Gone) {
            error = REMOTE_ERROR;
            while (!aborted) usleep(50);
        } catch (Aborted) {
        }
        work.done = true;
    }
    ~Communicator() {
        aborted = true;
        for (const auto& work : works) {
            if (work->thread.joinable()) work->thread.join();
            work->done = true;
        }
        munmap(shared, sizeof(Shared));
    }
};

// Of this thread's group.
thread_local int depth;
thread_local Communicator* grouped;

int add(Communicator* communicator, void* stream, std::function<void()> call) {
    if (depth != 1 || stream == nullptr || (grouped != nullptr && grouped != communicator)) return INVALID_USAGE;
    // What is in progress must be waited for.
    if (communicator->slow > 0) return INVALID_USAGE;
    grouped = communicator;
    communicator->stream = stream;
    communicator->next->calls.push_back(std::move(call));
    return 0;
}
size_t size_of(int type) { return type == 7 ? 4 : type == 8 ? 8 : 0; }
Shared* map(int file) {
    void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    return memory == MAP_FAILED ? nullptr : static_cast<Shared*>(memory);
}

}  // namespace

extern "C" {

typedef struct {
    char name[128];
} Id;

int ncclGetVersion(int* version) {
    const char* told = getenv("FAKE_NCCL_VERSION");
    *version = told == nullptr ? 22703 : atoi(told);
    return 0;
}
const char* ncclGetErrorString(int code) {
    return code == REMOTE_ERROR ? "remote process exited or there was a network error" : code == SYSTEM_ERROR ? "system error" : "invalid";
}
const char* ncclGetLastError(void*) { return last_error; }
int ncclGetUniqueId(Id* id) {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    memset(id, 0, sizeof *id);
    snprintf(id->name, sizeof id->name, "/ijepa-fake-nccl-%d-%ld%09ld", getpid(), long(now.tv_sec), now.tv_nsec);
    const int file = shm_open(id->name, O_CREAT | O_EXCL | O_RDWR, 0600);
    if (file < 0 || ftruncate(file, sizeof(Shared)) != 0) return SYSTEM_ERROR;
    close(file);
    return 0;
}
int ncclCommInitRank(Communicator** communicator, int size, Id id, int rank) {
    if (rank < 0 || rank >= size || size > RANKS) return INVALID_ARGUMENT;
    const int file = shm_open(id.name, O_RDWR, 0600);
    Shared* shared = file < 0 ? nullptr : map(file);
    if (shared == nullptr) {
        snprintf(last_error, sizeof last_error, "nobody listens at %s", id.name);
        return SYSTEM_ERROR;
    }
    shared->process[rank] = getpid();
    for (int peer = 0; peer < size; peer++)
        while (shared->process[peer] == 0) usleep(200);
    if (rank == 0) shm_unlink(id.name);
    *communicator = new Communicator{shared, rank, size};
    return 0;
}
int ncclCommDestroy(Communicator* communicator) {
    delete communicator;
    return 0;
}
int ncclCommAbort(Communicator* communicator) { return ncclCommDestroy(communicator); }
int ncclCommGetAsyncError(Communicator* communicator, int* code) {
    if (communicator->slow > 0) {
        *code = IN_PROGRESS;
        if (--communicator->slow == 0 && !communicator->begin()) return INVALID_ARGUMENT;
    } else {
        *code = communicator->error;
    }
    return 0;
}
int ncclGroupStart() {
    depth++;
    return 0;
}
int ncclGroupEnd() {
    if (depth != 1) return INVALID_USAGE;
    depth = 0;
    Communicator* communicator = grouped;
    grouped = nullptr;
    if (communicator == nullptr) return 0;
    const char* blocking = getenv("NCCL_COMM_BLOCKING");
    if (blocking != nullptr && strcmp(blocking, "0") == 0) {
        communicator->slow = 3;
        return IN_PROGRESS;
    }
    return communicator->begin() ? 0 : INVALID_ARGUMENT;
}
int ncclReduce(const float* from, float* to, size_t count, int type, int sum, int root, Communicator* communicator, void* stream) {
    if (type != 7 || sum != 0 || root < 0 || root >= communicator->size) return INVALID_ARGUMENT;
    return add(communicator, stream, [=] { communicator->reduce(root, from, to, count); });
}
int ncclReduceScatter(const float* from, float* to, size_t count, int type, int sum, Communicator* communicator, void* stream) {
    int code = 0;
    // What the others are sent leaves before the own part, which may lie among it, is written: each rank writes its own alone.
    for (int root = 0; root < communicator->size && code == 0; root++)
        code = ncclReduce(from + root * count, to, count, type, sum, root, communicator, stream);
    return code;
}
int ncclBroadcast(const char* from, char* to, size_t count, int type, int root, Communicator* communicator, void* stream) {
    if (size_of(type) == 0 || root < 0 || root >= communicator->size) return INVALID_ARGUMENT;
    return add(communicator, stream, [=] { communicator->broadcast(root, from, to, count * size_of(type)); });
}
int ncclAllGather(const char* from, char* to, size_t count, int type, Communicator* communicator, void* stream) {
    int code = 0;
    for (int root = 0; root < communicator->size && code == 0; root++)
        code = ncclBroadcast(from, to + root * count * size_of(type), count, type, root, communicator, stream);
    return code;
}
int ncclSend(const char* from, size_t count, int type, int peer, Communicator* communicator, void* stream) {
    if (size_of(type) == 0 || peer < 0 || peer >= communicator->size) return INVALID_ARGUMENT;
    return add(communicator, stream, [=] { communicator->send(peer, from, count * size_of(type)); });
}
int ncclRecv(char* to, size_t count, int type, int peer, Communicator* communicator, void* stream) {
    if (size_of(type) == 0 || peer < 0 || peer >= communicator->size) return INVALID_ARGUMENT;
    return add(communicator, stream, [=] { communicator->receive(peer, to, count * size_of(type)); });
}
}
