// Threads that share the work of one kernel call, and park when there is none.
#pragma once

#include <cstdint>
#include <functional>

namespace coderv2 {

// How many threads compute, the caller's included. Takes effect at the next parallel().
void set_threads(int count);
int threads();

// Calls work(task, thread) once for each task in [0, tasks); thread is in [0, threads()), and no two calls at a time
// share one. Tasks are handed out in order to whoever is free. One caller at a time; a second waits, so a task cannot be one.
// What a task throws comes to the caller when nobody works any more; of several the last.
void parallel(int64_t tasks, const std::function<void(int64_t task, int thread)>& work);

// From now on freed memory stays with the process, since taking it from the system anew for each pass costs a page fault
// for each 4 KiB. Does nothing where the C library is not glibc.
void keep_memory();

}  // namespace coderv2
