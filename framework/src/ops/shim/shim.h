// What the files of the shim share.
#pragma once
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <algorithm>
#include <string>
#include <string_view>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define RL_SIMD __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define RL_SIMD
#endif

#define RL_CALL(...)                  \
  try {                               \
    __VA_ARGS__;                      \
    return 0;                         \
  } catch (const std::exception& e) { \
    realign::last_error = e.what();   \
    return -1;                        \
  }

// An operation: recordings show `rl_swiglu` as `realign::swiglu`, like those of libtorch.
#define RL_TRY(...) RL_CALL(const realign::Recorded recorded(__func__); __VA_ARGS__)

namespace realign {
using at::Tensor;
typedef Tensor* Handle;

extern thread_local std::string last_error;

// Folder of the libtorch in use, with a slash at its end.
std::string libtorch_folder();

// Of an NVIDIA device, 90 for 9.0; the runtime library is loaded with libtorch_cuda.
int compute_capability(int device);

struct Recorded {
  explicit Recorded(const char* function) : op(at::RecordScope::FUNCTION) {
    if (op.isActive()) op.before(std::string_view("realign::" + std::string(function).substr(3)));
  }

  at::RecordFunction op;
};

inline Handle own(Tensor t) { return new Tensor(std::move(t)); }

// The kernels walk raw memory: sizes that do not fit must stop here.
inline void expect_rows(const char* what, const Tensor& x, const Tensor& per_sample) {
  TORCH_CHECK(x.dim() == 3 && per_sample.dim() == 2 && per_sample.size(0) == x.size(0) &&
                  per_sample.size(1) == x.size(2),
              what, " of ", per_sample.sizes(), " does not fit tokens of ", x.sizes());
}

inline void expect_equal(const char* what, const Tensor& a, const Tensor& b) {
  TORCH_CHECK(a.sizes() == b.sizes(), what, " of ", b.sizes(), " does not fit ", a.sizes());
}

inline void expect_vector(const char* what, const Tensor& vector, int64_t size) {
  TORCH_CHECK(vector.dim() == 1 && vector.size(0) == size, what, " of ", vector.sizes(), " does not fit ", size,
              " channels");
}
}  // namespace realign
