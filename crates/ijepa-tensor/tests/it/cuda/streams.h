// Work on streams, in the place of a GPU that does it beside the program. A stream does what it was asked for in order, and at once; but where
// SHIM_STREAMS (or shim_streams) says "late", not before somebody waits for it, and where it says "ops late", so does the stream of ops alone.
// What does not wait for another stream although it needs its work, or overwrites what that still reads, goes wrong in one of these ways.
#pragma once
#include <functional>

// Puts work on a stream: it is called until it returns true. Returns whether there is such a stream.
bool shim_enqueue(void* stream, std::function<bool()> work);
