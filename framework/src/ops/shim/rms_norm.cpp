// RMSNorm with what follows it: modulation, or the rotation of queries and keys.
#include <cmath>

#include "shim.h"

using namespace realign;

namespace {
// y = x * rstd * factor + shift for one row, factor = weight * (1 + scale).
RL_SIMD void modulated_row(const float* x, const float* factor, const float* shift, float* y, int64_t d, float eps,
                           float* rstd) {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < d; i++) squares += x[i] * x[i];
  const float r = 1.0f / std::sqrt(squares / d + eps);
  *rstd = r;
#pragma omp simd
  for (int64_t i = 0; i < d; i++) y[i] = x[i] * r * factor[i] + shift[i];
}

RL_SIMD void modulated_backward_row(const float* g, const float* x, const float* factor, float r, float* gx,
                                    float* gshift, float* gfactor, int64_t d) {
  float along = 0;
#pragma omp simd reduction(+ : along)
  for (int64_t i = 0; i < d; i++) {
    const float xh = x[i] * r;
    along += g[i] * factor[i] * xh;
    gshift[i] += g[i];
    gfactor[i] += g[i] * xh;
  }
  along /= d;
#pragma omp simd
  for (int64_t i = 0; i < d; i++) gx[i] = r * (g[i] * factor[i] - x[i] * r * along);
}

// One head's query or key: RMSNorm, then adjacent pairs turned by their angles.
RL_SIMD void rotated_row(const float* x, const float* weight, const float* cos, const float* sin, float* y, int64_t d,
                         float eps, float* rstd) {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < d; i++) squares += x[i] * x[i];
  const float r = 1.0f / std::sqrt(squares / d + eps);
  *rstd = r;
#pragma omp simd
  for (int64_t j = 0; j < d / 2; j++) {
    const float a = x[2 * j] * r * weight[2 * j], b = x[2 * j + 1] * r * weight[2 * j + 1];
    y[2 * j] = a * cos[j] - b * sin[j];
    y[2 * j + 1] = b * cos[j] + a * sin[j];
  }
}

RL_SIMD void rotated_backward_row(const float* g, const float* x, const float* weight, const float* cos,
                                  const float* sin, float r, float* gx, float* gweight, int64_t d) {
  // The gradient turned back, kept where the result will be.
#pragma omp simd
  for (int64_t j = 0; j < d / 2; j++) {
    const float a = g[2 * j], b = g[2 * j + 1];
    gx[2 * j] = a * cos[j] + b * sin[j];
    gx[2 * j + 1] = b * cos[j] - a * sin[j];
  }
  float along = 0;
#pragma omp simd reduction(+ : along)
  for (int64_t i = 0; i < d; i++) {
    const float xh = x[i] * r;
    along += gx[i] * weight[i] * xh;
    gweight[i] += gx[i] * xh;
  }
  along /= d;
#pragma omp simd
  for (int64_t i = 0; i < d; i++) gx[i] = r * (gx[i] * weight[i] - x[i] * r * along);
}

// Packed queries, keys and values, [B,T,3*H*d], with the tables that turn them.
struct Packed {
  int64_t B, T, H, d;
  Packed(const Tensor& qkv, int64_t heads, const Tensor& q, const Tensor& k, const Tensor& cos, const Tensor& sin) {
    TORCH_CHECK(qkv.dim() == 3 && heads > 0 && qkv.size(2) % (6 * heads) == 0, "tokens of ", qkv.sizes(),
                " do not hold three times ", heads, " heads of an even size");
    B = qkv.size(0), T = qkv.size(1), H = heads, d = qkv.size(2) / (3 * heads);
    expect_vector("a query weight", q, d);
    expect_vector("a key weight", k, d);
    TORCH_CHECK(cos.dim() == 2 && cos.size(0) == T && cos.size(1) == d / 2, "cosines of ", cos.sizes(), " do not fit ",
                T, " tokens with heads of ", d);
    expect_equal("sines", cos, sin);
  }
};
}  // namespace

extern "C" {
// x [B,T,D], weight [D], shift and scale [B,D], f32 on the CPU; rstd [B,T,1], factor [B,D].
int rl_modulated_rms_norm(Handle x_, Handle weight_, Handle shift_, Handle scale_, double eps, Handle* y_,
                          Handle* rstd_, Handle* factor_) {
  RL_TRY(expect_rows("a shift", *x_, *shift_); expect_rows("a scale", *x_, *scale_);
         expect_vector("a weight", *weight_, x_->size(2)); Tensor x = x_->contiguous();
         Tensor shift = shift_->contiguous(); Tensor factor = at::addcmul(*weight_, *scale_, *weight_).contiguous();
         const int64_t B = x.size(0); const int64_t T = x.size(1); const int64_t D = x.size(2);
         Tensor y = at::empty_like(x); Tensor rstd = at::empty({B, T, 1}, x.options());
         const float* xp = x.const_data_ptr<float>(); const float* hp = shift.const_data_ptr<float>();
         const float* fp = factor.const_data_ptr<float>(); float* yp = y.data_ptr<float>();
         float* rp = rstd.data_ptr<float>(); at::parallel_for(0, B* T, 16, [&](int64_t begin, int64_t end) {
           for (int64_t r = begin; r < end; r++) {
             const int64_t b = r / T;
             modulated_row(xp + r * D, fp + b * D, hp + b * D, yp + r * D, D, (float)eps, rp + r);
           }
         });
         *y_ = own(y); *rstd_ = own(rstd); *factor_ = own(factor))
}

// Gradients of x, shift and factor.
int rl_modulated_rms_norm_backward(Handle g_, Handle x_, Handle factor_, Handle rstd_, Handle* gx_, Handle* gshift_,
                                   Handle* gfactor_) {
  RL_TRY(expect_equal("a gradient", *x_, *g_); Tensor g = g_->contiguous(); Tensor x = x_->contiguous();
         const int64_t B = x.size(0); const int64_t T = x.size(1); const int64_t D = x.size(2);
         const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(T, (2 * at::get_num_threads() + B - 1) / B));
         Tensor gx = at::empty_like(x); Tensor gshift = at::zeros({parts, B, D}, x.options());
         Tensor gfactor = at::zeros({parts, B, D}, x.options()); const float* gp = g.const_data_ptr<float>();
         const float* xp = x.const_data_ptr<float>(); const float* fp = factor_->const_data_ptr<float>();
         const float* rp = rstd_->const_data_ptr<float>(); float* ox = gx.data_ptr<float>();
         float* oh = gshift.data_ptr<float>(); float* of = gfactor.data_ptr<float>();
         at::parallel_for(0, B* parts, 1, [&](int64_t begin, int64_t end) {
           for (int64_t unit = begin; unit < end; unit++) {
             const int64_t b = unit / parts, part = unit % parts, row = (part * B + b) * D;
             for (int64_t t = T * part / parts; t < T * (part + 1) / parts; t++) {
               const int64_t r = b * T + t;
               modulated_backward_row(gp + r * D, xp + r * D, fp + b * D, rp[r], ox + r * D, oh + row, of + row, D);
             }
           }
         });
         *gx_ = own(gx); *gshift_ = own(parts == 1 ? gshift.squeeze(0) : gshift.sum(0));
         *gfactor_ = own(parts == 1 ? gfactor.squeeze(0) : gfactor.sum(0)))
}

// Queries and keys of qkv [B,T,3*H*d] normalized and turned, values copied; rstd [B*T,2,H].
int rl_rotary_qk_norm(Handle qkv_, int64_t heads, Handle q_, Handle k_, Handle cos_, Handle sin_, double eps,
                      Handle* y_, Handle* rstd_) {
  RL_TRY(const Packed s(*qkv_, heads, *q_, *k_, *cos_, *sin_); Tensor x = qkv_->contiguous();
         Tensor q = q_->contiguous(); Tensor k = k_->contiguous(); Tensor cos = cos_->contiguous();
         Tensor sin = sin_->contiguous(); Tensor y = at::empty_like(x);
         Tensor rstd = at::empty({s.B * s.T, 2, s.H}, x.options()); const float* xp = x.const_data_ptr<float>();
         const float* cp = cos.const_data_ptr<float>(); const float* sp = sin.const_data_ptr<float>();
         const float* weights[2] = {q.const_data_ptr<float>(), k.const_data_ptr<float>()};
         float* yp = y.data_ptr<float>(); float* rp = rstd.data_ptr<float>(); const int64_t half = s.d / 2;
         at::parallel_for(0, s.B* s.T, 8, [&](int64_t begin, int64_t end) {
           for (int64_t token = begin; token < end; token++) {
             const int64_t t = token % s.T, row = token * 3 * s.H * s.d;
             for (int64_t n = 0; n < 2 * s.H; n++) {
               const int64_t at = row + n * s.d;
               rotated_row(xp + at, weights[n / s.H], cp + t * half, sp + t * half, yp + at, s.d, (float)eps,
                           rp + token * 2 * s.H + n);
             }
             const int64_t values = row + 2 * s.H * s.d;
             std::copy_n(xp + values, s.H * s.d, yp + values);
           }
         });
         *y_ = own(y); *rstd_ = own(rstd))
}

int rl_rotary_qk_norm_backward(Handle g_, Handle qkv_, int64_t heads, Handle q_, Handle k_, Handle cos_, Handle sin_,
                               Handle rstd_, Handle* gx_, Handle* gq_, Handle* gk_) {
  RL_TRY(const Packed s(*qkv_, heads, *q_, *k_, *cos_, *sin_); expect_equal("a gradient", *qkv_, *g_);
         Tensor g = g_->contiguous(); Tensor x = qkv_->contiguous(); Tensor q = q_->contiguous();
         Tensor k = k_->contiguous(); Tensor cos = cos_->contiguous(); Tensor sin = sin_->contiguous();
         const int64_t rows = s.B * s.T; const int64_t parts = std::min<int64_t>(rows, 2 * at::get_num_threads());
         Tensor gx = at::empty_like(x); Tensor gweight = at::zeros({parts, 2, s.d}, x.options());
         const float* gp = g.const_data_ptr<float>(); const float* xp = x.const_data_ptr<float>();
         const float* cp = cos.const_data_ptr<float>(); const float* sp = sin.const_data_ptr<float>();
         const float* weights[2] = {q.const_data_ptr<float>(), k.const_data_ptr<float>()};
         const float* rp = rstd_->const_data_ptr<float>(); float* ox = gx.data_ptr<float>();
         float* ow = gweight.data_ptr<float>(); const int64_t half = s.d / 2;
         at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
           for (int64_t part = begin; part < end; part++) {
             for (int64_t token = rows * part / parts; token < rows * (part + 1) / parts; token++) {
               const int64_t t = token % s.T, row = token * 3 * s.H * s.d;
               for (int64_t n = 0; n < 2 * s.H; n++) {
                 const int64_t at = row + n * s.d;
                 rotated_backward_row(gp + at, xp + at, weights[n / s.H], cp + t * half, sp + t * half,
                                      rp[token * 2 * s.H + n], ox + at, ow + (2 * part + n / s.H) * s.d, s.d);
               }
               const int64_t values = row + 2 * s.H * s.d;
               std::copy_n(gp + values, s.H * s.d, ox + values);
             }
           }
         });
         Tensor sum = gweight.sum(0); *gx_ = own(gx); *gq_ = own(sum.select(0, 0).clone());
         *gk_ = own(sum.select(0, 1).clone()))
}
}
