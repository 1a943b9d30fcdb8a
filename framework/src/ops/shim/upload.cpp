// From the host's memory to a device.
#include <ATen/ops/empty.h>

#include <cstring>

#include "shim.h"

extern "C" {
// `type` is an at::ScalarType; `cuda` is the device's index, or -1 for the CPU.
//
// A pinned buffer is copied behind the host's back; libtorch keeps it until the copy is done.
int rl_upload(const void* values, int64_t bytes, const int64_t* sizes, int64_t dims, int type, int cuda,
              realign::Handle* out) {
  RL_TRY(const auto options = at::TensorOptions(static_cast<at::ScalarType>(type)).pinned_memory(cuda >= 0);
         at::Tensor host = at::empty(at::IntArrayRef(sizes, dims), options);
         TORCH_CHECK(static_cast<int64_t>(host.nbytes()) == bytes, bytes, " bytes do not fill a tensor of ",
                     host.sizes());
         const auto* from = static_cast<const char*>(values); auto* to = static_cast<char*>(host.data_ptr());
         at::parallel_for(0, bytes, 1 << 22, [&](int64_t begin, int64_t end) {
           std::memcpy(to + begin, from + begin, end - begin);
         });
         *out = realign::own(cuda < 0 ? host : host.to(at::TensorOptions(at::Device(at::kCUDA, cuda)), true)))
}
}
