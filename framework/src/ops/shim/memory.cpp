// What a CUDA device's memory holds.
#include <c10/core/CachingDeviceAllocator.h>

#include "shim.h"

extern "C" {
int rl_release_cuda_memory() {
  RL_CALL(auto* allocator = c10::getDeviceAllocator(c10::kCUDA); if (allocator->initialized()) allocator->emptyCache())
}

// From now on the most that is taken counts from what is taken now.
int rl_restart_cuda_peak(int cuda) {
  RL_CALL(auto* allocator = c10::getDeviceAllocator(c10::kCUDA);
          if (allocator->initialized()) allocator->resetPeakStats(static_cast<c10::DeviceIndex>(cuda)))
}

// `peak` is the most that libtorch took from the device since the last restart; all are 0 before it took anything.
int rl_cuda_memory(int cuda, int64_t* peak, int64_t* free) {
  RL_CALL(*peak = *free = 0; auto* allocator = c10::getDeviceAllocator(c10::kCUDA);
          if (!allocator->initialized()) return 0;
          const auto stats = allocator->getDeviceStats(static_cast<c10::DeviceIndex>(cuda));
          *peak = stats.reserved_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)].peak;
          *free = allocator->getMemoryInfo(static_cast<c10::DeviceIndex>(cuda)).first)
}
}
