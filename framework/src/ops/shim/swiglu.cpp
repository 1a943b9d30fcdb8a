// silu(a) * b for the two halves of a row.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "shim.h"

using namespace realign;

namespace {
// e^x to 2 ulp for x in [-87, 87], in operations that every instruction set has in vectors: x = n ln 2 + r, and a
// polynomial of r on [-ln 2 / 2, ln 2 / 2] (Taylor to degree 7).
inline float exp_of(float x) {
  const float to_integer = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float n = (x * 1.44269504f + to_integer) - to_integer;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const int32_t bits = ((int32_t)n + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}

// Clamped where f32 holds neither more nor less; NaN is lost here and returns by the factor x.
inline float sigmoid(float x) {
  const float low = x < -87.0f ? -87.0f : x;
  const float high = low < 87.0f ? low : 87.0f;
  return 1.0f / (1.0f + exp_of(-high));
}

RL_SIMD void swiglu_row(const float* a, const float* b, float* y, int64_t m) {
#pragma omp simd
  for (int64_t i = 0; i < m; i++) y[i] = a[i] * sigmoid(a[i]) * b[i];
}

RL_SIMD void swiglu_backward_row(const float* g, const float* a, const float* b, float* ga, float* gb, int64_t m) {
#pragma omp simd
  for (int64_t i = 0; i < m; i++) {
    const float s = sigmoid(a[i]), silu = a[i] * s;
    ga[i] = g[i] * b[i] * (s + silu * (1.0f - s));
    gb[i] = g[i] * silu;
  }
}
}  // namespace

extern "C" {
// x [N,2m], y [N,m], f32 on the CPU.
int rl_swiglu(Handle x_, Handle* y_) {
  RL_TRY(TORCH_CHECK(x_->dim() == 2 && x_->size(1) % 2 == 0, "rows of ", x_->sizes(), " have no two halves");
         Tensor x = x_->contiguous(); const int64_t N = x.size(0); const int64_t m = x.size(1) / 2;
         Tensor y = at::empty({N, m}, x.options()); const float* xp = x.const_data_ptr<float>();
         float* yp = y.data_ptr<float>(); at::parallel_for(0, N, 8, [&](int64_t begin, int64_t end) {
           for (int64_t r = begin; r < end; r++) swiglu_row(xp + 2 * r * m, xp + (2 * r + 1) * m, yp + r * m, m);
         });
         *y_ = own(y))
}

int rl_swiglu_backward(Handle g_, Handle x_, Handle* gx_) {
  RL_TRY(Tensor x = x_->contiguous(); Tensor g = g_->contiguous(); const int64_t N = x.size(0);
         const int64_t m = x.size(1) / 2;
         TORCH_CHECK(g.dim() == 2 && g.size(0) == N && g.size(1) == m, "a gradient of ", g.sizes(),
                     " does not fit rows of ", x.sizes());
         Tensor gx = at::empty_like(x); const float* gp = g.const_data_ptr<float>();
         const float* xp = x.const_data_ptr<float>(); float* op = gx.data_ptr<float>();
         at::parallel_for(0, N, 8, [&](int64_t begin, int64_t end) {
           for (int64_t r = begin; r < end; r++) {
             const int64_t a = 2 * r * m, b = a + m;
             swiglu_backward_row(gp + r * m, xp + a, xp + b, op + a, op + b, m);
           }
         });
         *gx_ = own(gx))
}
}
