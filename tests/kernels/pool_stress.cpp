// Many callers of the kernels' threads, and all that happens to these while they wait or work: for ThreadSanitizer,
// which says where one thread reads what another writes without having been told (test_pool_races.py).
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <thread>
#include <vector>

#include "pool.h"

namespace {

using coderv2::parallel;

void expect(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "pool_stress: %s\n", what);
    std::_Exit(1);
}

// What kernels do: plain memory that each task writes for itself, read by the caller and by the next call's tasks.
void one_after_another(int64_t tasks, int calls) {
    std::vector<int64_t> squares(tasks), sums(tasks);
    for (int call = 0; call < calls; ++call) {
        parallel(tasks, [&](int64_t i, int) { squares[i] = i * i + call; });
        parallel(tasks, [&](int64_t i, int) { sums[i] = squares[i] + squares[tasks - 1 - i]; });
        for (int64_t i = 0; i < tasks; ++i)
            expect(sums[i] == i * i + (tasks - 1 - i) * (tasks - 1 - i) + 2 * call, "a task was lost or came twice");
    }
}

// A thread's number is its own during a call: what is kept under it needs no lock.
void scratch_of_each_thread() {
    const int most = 8;
    std::vector<int64_t> done(most);
    parallel(1000, [&](int64_t, int thread) {
        expect(0 <= thread && thread < most, "a thread that was not asked for");
        done[thread] += 1;
    });
    int64_t all = 0;
    for (int64_t one : done) all += one;
    expect(all == 1000, "tasks are not as many as were asked for");
}

// Memory of the caller's, which is gone when the exception has passed through: nobody may work in it then.
void tasks_that_throw() {
    for (int64_t bad : {0, 1, 40, 99}) {
        bool caught = false;
        try {
            std::vector<int64_t> done(100);
            parallel(100, [&](int64_t i, int) {
                if (i == bad) throw std::runtime_error("no room");
                std::this_thread::sleep_for(std::chrono::microseconds(20));
                done[i] = i;
            });
        } catch (const std::runtime_error&) {
            caught = true;
        }
        expect(caught, "what a task threw did not come to the caller");
        one_after_another(7, 1);
    }
}

// Long enough for the others to park, and short enough to meet them as they do.
void after_a_rest(int microseconds) {
    std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
    one_after_another(3, 1);
}

void callers_at_a_time(int count) {
    std::atomic<bool> stop{false};
    std::thread counts([&] {
        for (int n = 0; !stop; n = (n + 1) % 4) {
            coderv2::set_threads(1 + n);
            expect(coderv2::threads() >= 1, "no threads at all");
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    });
    std::vector<std::thread> callers;
    for (int i = 0; i < count; ++i)
        callers.emplace_back([i] {
            for (int round = 0; round < 40; ++round) {
                one_after_another(1 + i + round % 7, 3);
                scratch_of_each_thread();
                if (round % 8 == 0) tasks_that_throw();
                after_a_rest(20 * (round % 6));
            }
        });
    for (auto& caller : callers) caller.join();
    stop = true;
    counts.join();
}

}  // namespace

int main() {
    for (int threads : {1, 2, 3, 8}) {
        coderv2::set_threads(threads);
        for (int64_t tasks : {0, 1, 2, 7, 100}) one_after_another(tasks, 50);
        scratch_of_each_thread();
        tasks_that_throw();
        for (int rest : {0, 10, 55, 60, 65, 100, 500}) after_a_rest(rest);
    }
    callers_at_a_time(4);
    coderv2::set_threads(4);
    one_after_another(10, 1);  // at the program's end they are joined as they wait
    return 0;
}
