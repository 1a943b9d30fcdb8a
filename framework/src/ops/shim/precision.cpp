// Products in reduced precision: the switch of tf32, and matrices in bf16 whose product is f32.
#include <ATen/Context.h>
#include <ATen/ops/mm.h>
#include <dlfcn.h>

#include "shim.h"

using namespace realign;

namespace realign {
int compute_capability(int device) {
  typedef int (*GetAttribute)(int*, int, int);
  const int major_attribute = 75, minor_attribute = 76;
  const auto get = reinterpret_cast<GetAttribute>(dlsym(RTLD_DEFAULT, "cudaDeviceGetAttribute"));
  TORCH_CHECK(get, "the CUDA runtime is not loaded");
  int major = 0, minor = 0;
  TORCH_CHECK(get(&major, major_attribute, device) == 0 && get(&minor, minor_attribute, device) == 0,
              "the compute capability of device ", device, " cannot be read");
  return 10 * major + minor;
}
}  // namespace realign

extern "C" {
// Of matrix products and convolutions on NVIDIA devices; the CPU's are not concerned.
int rl_allow_tf32(int is_allowed) {
  RL_TRY(auto& context = at::globalContext(); context.setAllowTF32CuBLAS(is_allowed != 0);
         context.setAllowTF32CuDNN(is_allowed != 0))
}

// CUDA only.
int rl_mm_f32(Handle a, Handle b, Handle* product) { RL_TRY(*product = own(at::mm(*a, *b, at::kFloat))) }

int rl_compute_capability(int device, int* major, int* minor) {
  RL_TRY(const int capability = compute_capability(device); *major = capability / 10; *minor = capability % 10)
}
}
