// Work on streams, in the place of a GPU that does it beside the program. A stream does what it was asked for in order. It does so at once, or, where
// SHIM_STREAMS is "late", not before somebody waits for it: what does not wait for another stream's work although it needs it comes too
// early in the second way, and what overwrites what another stream still reads does so in the first.
#pragma once
#include <functional>

// Puts work on a stream: it is called until it returns true. Returns whether there is such a stream.
bool shim_enqueue(void* stream, std::function<bool()> work);
