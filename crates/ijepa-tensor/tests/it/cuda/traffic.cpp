// What the lanes of a warp do from one place of the text for the n-th time is one request of theirs. A request for global memory costs the
// sectors of 32 bytes that it touches; one for shared memory as many turns as the busiest of 32 banks of 4 bytes has words to give. Accesses
// of 8 and 16 bytes are served to halves and quarters of a warp.
#include "traffic.h"

#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <map>
#include <string>
#include <tuple>
#include <vector>

namespace {

const u32 LANES = 32;
const u64 SECTOR = 32, BANKS = 32, WORD = 4;

struct Access {
    u64 address;
    u32 size;
    u32 lane;
};

struct Request {
    std::vector<Access> accesses;
    bool write, shared;
};

// Of requests for global memory: bytes that lanes use, each once a request, and sectors; of those for shared memory: turns, and as few as would do.
struct Counts {
    u64 used[2] = {0, 0}, sectors[2] = {0, 0}, turns = 0, least_turns = 0;
};

struct Key {
    u32 warp;
    const void* place;
    u32 number;
    bool write, shared;
    bool operator<(const Key& other) const {
        return std::tie(warp, place, number, write, shared) < std::tie(other.warp, other.place, other.number, other.write, other.shared);
    }
};

struct Table {
    std::map<std::string, Counts> kernels;
    std::string text() const {
        std::string text = "kernel read_bytes read_sectors written_bytes written_sectors shared_turns shared_least_turns\n";
        for (const auto& [name, counts] : kernels) {
            text += name;
            for (const u64 count : {counts.used[0], counts.sectors[0], counts.used[1], counts.sectors[1], counts.turns, counts.least_turns}) {
                text += " " + std::to_string(count);
            }
            text += "\n";
        }
        return text;
    }
    ~Table() {
        const char* path = getenv("SHIM_TRAFFIC");
        FILE* file = path == nullptr || kernels.empty() ? nullptr : fopen(path, "w");
        if (file == nullptr) return;
        fputs(text().c_str(), file);
        fclose(file);
    }
};

Table table;
bool started;
std::string said;
Counts* counts;
std::map<Key, Request> open_requests;
// How often a thread has done it: thread, place, whether it writes, whether to shared memory.
std::map<std::tuple<u32, const void*, bool, bool>, u32> numbers;

u64 distinct(std::vector<u64>& values) {
    std::sort(values.begin(), values.end());
    return std::unique(values.begin(), values.end()) - values.begin();
}

void close_global(const Request& request) {
    std::vector<u64> bytes, sectors;
    for (const Access& access : request.accesses) {
        for (u64 at = access.address; at < access.address + access.size; at++) {
            bytes.push_back(at);
            sectors.push_back(at / SECTOR);
        }
    }
    counts->used[request.write] += distinct(bytes);
    counts->sectors[request.write] += distinct(sectors);
}

void close_shared(const Request& request) {
    const u32 size = request.accesses[0].size, together = size <= WORD ? LANES : LANES * static_cast<u32>(WORD) / size;
    for (u32 first = 0; first < LANES; first += together) {
        std::vector<u64> words;
        for (const Access& access : request.accesses) {
            if (access.lane < first || access.lane >= first + together) continue;
            for (u64 at = access.address / WORD; at <= (access.address + access.size - 1) / WORD; at++) words.push_back(at);
        }
        words.resize(distinct(words));
        if (words.empty()) continue;
        u64 busy[BANKS] = {};
        for (const u64 word : words) busy[word % BANKS]++;
        counts->turns += *std::max_element(busy, busy + BANKS);
        counts->least_turns += (words.size() + BANKS - 1) / BANKS;
    }
}

void close(const Request& request) { request.shared ? close_shared(request) : close_global(request); }

}  // namespace

bool traffic_is_counted() {
    static const bool wanted = getenv("SHIM_TRAFFIC") != nullptr;
    return wanted || started;
}

extern "C" {

void shim_traffic_start() {
    table.kernels.clear();
    started = true;
}

// The table of what was counted since.
const char* shim_traffic() {
    started = false;
    said = table.text();
    return said.c_str();
}
}

void traffic_begin(const char* kernel) { counts = &table.kernels[kernel]; }

void traffic_access(u32 thread, const void* place, u64 address, u32 size, bool write, bool shared) {
    const Key key = {thread / LANES, place, numbers[{thread, place, write, shared}]++, write, shared};
    Request& request = open_requests[key];
    request.write = write;
    request.shared = shared;
    request.accesses.push_back({address, size, thread % LANES});
    if (request.accesses.size() < LANES) return;
    close(request);
    open_requests.erase(key);
}

void traffic_end() {
    for (const auto& [key, request] : open_requests) close(request);
    open_requests.clear();
    numbers.clear();
}
