#include "pool.h"

#include <unistd.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <atomic>
#include <chrono>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace coderv2 {
namespace {

// A decode step calls a kernel every few tens of microseconds: a worker that waits this long for the next call before
// it parks is there in time, and one that waits longer takes a core from whoever else runs on the machine.
constexpr std::chrono::microseconds SPIN{60};

void relax() {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

class Pool {
public:
    explicit Pool(int count) : process_(getpid()) {
        for (int thread = 1; thread < count; ++thread) workers_.emplace_back([this, thread] { serve(thread); });
    }

    ~Pool() {
        if (getpid() != process_) {  // the child of a fork: its parent's threads are not there to be joined
            for (auto& worker : workers_) worker.detach();
            return;
        }
        stop_ = true;
        call_.fetch_add(1);
        call_.notify_all();
        for (auto& worker : workers_) worker.join();
    }

    int count() const { return static_cast<int>(workers_.size()) + 1; }
    bool ours() const { return getpid() == process_; }

    void run(int64_t tasks, const std::function<void(int64_t, int)>& work) {
        work_ = &work;
        tasks_ = tasks;
        next_.store(0, std::memory_order_relaxed);
        busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
        call_.fetch_add(1, std::memory_order_release);
        call_.notify_all();
        share(0);
        for (int spun = 0; busy_.load(std::memory_order_acquire) != 0; ++spun) {
            if (spun < 4096) relax();
            else std::this_thread::yield();
        }
        if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
    }

private:
    // What a task throws waits until all are done, since they work in the caller's memory; what nobody has begun is left out.
    void share(int thread) {
        try {
            for (int64_t task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) (*work_)(task, thread);
        } catch (...) {
            next_.store(tasks_, std::memory_order_relaxed);
            std::scoped_lock lock(failing_);
            failure_ = std::current_exception();
        }
    }

    void serve(int thread) {
        for (uint32_t seen = 0;;) {
            wait_past(seen);
            seen += 1;
            if (stop_) return;
            share(thread);
            busy_.fetch_sub(1, std::memory_order_release);
        }
    }

    void wait_past(uint32_t seen) {
        auto end = std::chrono::steady_clock::now() + SPIN;
        while (call_.load(std::memory_order_acquire) == seen) {
            for (int spun = 0; spun < 64 && call_.load(std::memory_order_acquire) == seen; ++spun) relax();
            if (std::chrono::steady_clock::now() > end) call_.wait(seen, std::memory_order_acquire);
        }
    }

    const pid_t process_;
    std::vector<std::thread> workers_;
    const std::function<void(int64_t, int)>* work_ = nullptr;
    int64_t tasks_ = 0;
    std::atomic<int64_t> next_{0};
    std::atomic<int> busy_{0};
    std::atomic<uint32_t> call_{0};
    std::atomic<bool> stop_{false};
    std::mutex failing_;
    std::exception_ptr failure_;
};

std::mutex mutex;
std::unique_ptr<Pool> pool;
int wanted = 1;

}  // namespace

void set_threads(int count) {
    std::scoped_lock lock(mutex);
    wanted = count;
}

int threads() {
    std::scoped_lock lock(mutex);
    return wanted;
}

void parallel(int64_t tasks, const std::function<void(int64_t, int)>& work) {
    std::scoped_lock lock(mutex);
    if (tasks <= 1 || wanted == 1) {
        for (int64_t task = 0; task < tasks; ++task) work(task, 0);
        return;
    }
    if (!pool || pool->count() != wanted || !pool->ours()) pool = std::make_unique<Pool>(wanted);
    pool->run(tasks, work);
}

void keep_memory() {
#if defined(__GLIBC__)
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    mallopt(M_TOP_PAD, 64 << 20);
#endif
}

}  // namespace coderv2
