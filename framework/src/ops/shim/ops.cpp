// The C++ side of realign's fused ops: what tch does not bind, and single-pass CPU kernels.
//
// Every function returns 0, or -1 with the exception's text behind rl_last_error(). Kernels are plain loops
// compiled for several instruction sets; the loader picks one at run time, so shipped builds need no -march.
#include <torch/version.h>
#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/native_layer_norm_backward.h>
#include <cmath>
#include <dlfcn.h>
#include <stdexcept>
#include <vector>

#include "shim.h"

using namespace realign;

namespace realign {
thread_local std::string last_error;

std::string libtorch_folder() {
  Dl_info cpu{};
  if (!dladdr(reinterpret_cast<void*>(&at::get_num_threads), &cpu) || !cpu.dli_fname)
    throw std::runtime_error("libtorch_cpu cannot be located");
  const std::string path = cpu.dli_fname;
  return path.substr(0, path.rfind('/') + 1);
}
}  // namespace realign

namespace {
std::vector<Tensor> list(Handle* handles, int64_t n) {
  std::vector<Tensor> out;
  out.reserve(n);
  for (int64_t i = 0; i < n; i++) out.push_back(*handles[i]);
  return out;
}

void* load_cuda() {
  static void* const library = [] {
    void* opened = dlopen((libtorch_folder() + "libtorch_cuda.so").c_str(), RTLD_NOW | RTLD_GLOBAL);
    if (!opened) throw std::runtime_error(dlerror());
    return opened;
  }();
  return library;
}

// Answer of a function of CUDA's runtime that fills one number; 0 where it fails.
int cuda_number(void* library, const char* function) {
  int number = 0;
  const auto ask = reinterpret_cast<int (*)(int*)>(dlsym(library, function));
  return ask && ask(&number) == 0 ? number : 0;
}

// y = (x - mean) * rstd * (1 + scale) + shift for one row.
RL_SIMD void modulated_norm_row(const float* x, const float* shift, const float* scale, float* y, int64_t d,
                                float eps, float* mean, float* rstd) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < d; i++) sum += x[i];
  const float m = sum / d;
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < d; i++) squares += (x[i] - m) * (x[i] - m);
  const float r = 1.0f / std::sqrt(squares / d + eps);
  *mean = m;
  *rstd = r;
#pragma omp simd
  for (int64_t i = 0; i < d; i++) y[i] = (x[i] - m) * r * (1.0f + scale[i]) + shift[i];
}

RL_SIMD void modulated_norm_backward_row(const float* g, const float* x, const float* scale, float m, float r,
                                         float* gx, float* gshift, float* gscale, int64_t d) {
  float c1 = 0, c2 = 0;
#pragma omp simd reduction(+ : c1, c2)
  for (int64_t i = 0; i < d; i++) {
    const float xh = (x[i] - m) * r, gg = g[i] * (1.0f + scale[i]);
    c1 += gg;
    c2 += gg * xh;
    gshift[i] += g[i];
    gscale[i] += g[i] * xh;
  }
  c1 /= d;
  c2 /= d;
#pragma omp simd
  for (int64_t i = 0; i < d; i++) {
    const float xh = (x[i] - m) * r;
    gx[i] = r * (g[i] * (1.0f + scale[i]) - c1 - xh * c2);
  }
}

// gate gradient += g * branch; branch gradient = g * gate.
RL_SIMD void gated_backward_row(const float* g, const float* gate, const float* branch, float* ggate, float* gbranch,
                                int64_t d) {
#pragma omp simd
  for (int64_t i = 0; i < d; i++) {
    ggate[i] += g[i] * branch[i];
    gbranch[i] = g[i] * gate[i];
  }
}

RL_SIMD void cosine_row(const float* z, const float* t, int64_t d, float* zz, float* tt, float* zt) {
  float a = 0, b = 0, c = 0;
#pragma omp simd reduction(+ : a, b, c)
  for (int64_t i = 0; i < d; i++) {
    a += z[i] * z[i];
    b += t[i] * t[i];
    c += z[i] * t[i];
  }
  *zz = a;
  *tt = b;
  *zt = c;
}

RL_SIMD void axpby_row(const float* t, const float* z, float a, float b, float* out, int64_t d) {
#pragma omp simd
  for (int64_t i = 0; i < d; i++) out[i] = a * t[i] + b * z[i];
}
}  // namespace

extern "C" {
const char* rl_last_error() { return last_error.c_str(); }
void rl_set_last_error(const char* message) { last_error = message; }

int rl_set_threads(int n) { RL_TRY(at::set_num_threads(n)) }
int rl_threads() { return at::get_num_threads(); }

const char* rl_version() { return TORCH_VERSION; }

// Loads libtorch_cuda from beside the libtorch_cpu in use; its constructors make CUDA known to libtorch.
// A product of bf16 matrices that is summed in parts is summed in f32, which is not libtorch's default.
int rl_load_cuda(int* driver, int* runtime) {
  RL_TRY(void* library = load_cuda(); at::globalContext().setAllowBF16ReductionCuBLAS(false);
         *driver = cuda_number(library, "cudaDriverGetVersion");
         *runtime = cuda_number(library, "cudaRuntimeGetVersion"))
}

// Gradient of LayerNorm without affine; tch cannot pass the output mask.
int rl_layer_norm_backward(Handle g, Handle x, Handle mean, Handle rstd, int64_t d, Handle* gx) {
  RL_TRY(auto r = at::native_layer_norm_backward(*g, *x, {d}, *mean, *rstd, c10::nullopt, c10::nullopt,
                                                 {true, false, false});
         *gx = own(std::get<0>(r)))
}

// Bits of `needs`: gradients of x, w and the bias.
int rl_conv2d_backward(Handle g, Handle x, Handle w, int64_t stride, int64_t padding, int needs, Handle* gx, Handle* gw,
                       Handle* gb) {
  RL_TRY(int64_t oc = w->size(0); const bool need_x = needs & 1; const bool need_w = needs & 2;
         const bool need_b = needs & 4;
         auto r = at::convolution_backward(*g, *x, *w, at::IntArrayRef(oc), {stride, stride}, {padding, padding},
                                           {1, 1}, false, {0, 0}, 1, {need_x, need_w, need_b});
         if (need_x) *gx = own(std::get<0>(r)); if (need_w) *gw = own(std::get<1>(r));
         if (need_b) *gb = own(std::get<2>(r)))
}

// LayerNorm without affine, then modulation. x [B,T,D], shift and scale [B,D], f32 on the CPU.
int rl_modulated_norm(Handle x_, Handle shift_, Handle scale_, double eps, Handle* y_, Handle* mean_, Handle* rstd_) {
  RL_TRY(expect_rows("a shift", *x_, *shift_); expect_rows("a scale", *x_, *scale_);
         Tensor x = x_->contiguous(); Tensor shift = shift_->contiguous(); Tensor scale = scale_->contiguous();
         const int64_t B = x.size(0); const int64_t T = x.size(1); const int64_t D = x.size(2);
         Tensor y = at::empty_like(x); Tensor mean = at::empty({B, T, 1}, x.options());
         Tensor rstd = at::empty({B, T, 1}, x.options()); const float* xp = x.const_data_ptr<float>();
         const float* hp = shift.const_data_ptr<float>(); const float* cp = scale.const_data_ptr<float>();
         float* yp = y.data_ptr<float>(); float* mp = mean.data_ptr<float>(); float* rp = rstd.data_ptr<float>();
         at::parallel_for(0, B* T, 16, [&](int64_t begin, int64_t end) {
           for (int64_t r = begin; r < end; r++) {
             const int64_t b = r / T;
             modulated_norm_row(xp + r * D, hp + b * D, cp + b * D, yp + r * D, D, (float)eps, mp + r, rp + r);
           }
         });
         *y_ = own(y); *mean_ = own(mean); *rstd_ = own(rstd))
}

int rl_modulated_norm_backward(Handle g_, Handle x_, Handle scale_, Handle mean_, Handle rstd_, Handle* gx_,
                               Handle* gshift_, Handle* gscale_) {
  RL_TRY(expect_equal("a gradient", *x_, *g_); Tensor g = g_->contiguous(); Tensor x = x_->contiguous();
         Tensor scale = scale_->contiguous();
         const int64_t B = x.size(0); const int64_t T = x.size(1); const int64_t D = x.size(2);
         const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(T, (2 * at::get_num_threads() + B - 1) / B));
         Tensor gx = at::empty_like(x); Tensor gshift = at::zeros({parts, B, D}, x.options());
         Tensor gscale = at::zeros({parts, B, D}, x.options()); const float* gp = g.const_data_ptr<float>();
         const float* xp = x.const_data_ptr<float>(); const float* cp = scale.const_data_ptr<float>();
         const float* mp = mean_->const_data_ptr<float>(); const float* rp = rstd_->const_data_ptr<float>();
         float* ox = gx.data_ptr<float>(); float* oh = gshift.data_ptr<float>(); float* oc = gscale.data_ptr<float>();
         at::parallel_for(0, B* parts, 1, [&](int64_t begin, int64_t end) {
           for (int64_t unit = begin; unit < end; unit++) {
             const int64_t b = unit / parts, part = unit % parts;
             float* h = oh + (part * B + b) * D;
             float* k = oc + (part * B + b) * D;
             for (int64_t t = T * part / parts; t < T * (part + 1) / parts; t++) {
               const int64_t r = b * T + t;
               modulated_norm_backward_row(gp + r * D, xp + r * D, cp + b * D, mp[r], rp[r], ox + r * D, h, k, D);
             }
           }
         });
         *gx_ = own(gx); *gshift_ = own(parts == 1 ? gshift.squeeze(0) : gshift.sum(0));
         *gscale_ = own(parts == 1 ? gscale.squeeze(0) : gscale.sum(0)))
}

// Gradients of x + gate * branch. g and branch [B,T,D], gate [B,D], f32 on the CPU.
int rl_gated_residual_backward(Handle g_, Handle gate_, Handle branch_, Handle* ggate_, Handle* gbranch_) {
  RL_TRY(expect_rows("a gate", *g_, *gate_); expect_equal("a branch", *g_, *branch_);
         Tensor g = g_->contiguous(); Tensor gate = gate_->contiguous(); Tensor branch = branch_->contiguous();
         const int64_t B = g.size(0); const int64_t T = g.size(1); const int64_t D = g.size(2);
         const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(T, (2 * at::get_num_threads() + B - 1) / B));
         Tensor ggate = at::zeros({parts, B, D}, g.options()); Tensor gbranch = at::empty_like(g);
         const float* gp = g.const_data_ptr<float>(); const float* ap = gate.const_data_ptr<float>();
         const float* bp = branch.const_data_ptr<float>(); float* oa = ggate.data_ptr<float>();
         float* ob = gbranch.data_ptr<float>();
         at::parallel_for(0, B* parts, 1, [&](int64_t begin, int64_t end) {
           for (int64_t unit = begin; unit < end; unit++) {
             const int64_t b = unit / parts, part = unit % parts;
             for (int64_t t = T * part / parts; t < T * (part + 1) / parts; t++) {
               const int64_t r = b * T + t;
               gated_backward_row(gp + r * D, ap + b * D, bp + r * D, oa + (part * B + b) * D, ob + r * D, D);
             }
           }
         });
         *ggate_ = own(parts == 1 ? ggate.squeeze(0) : ggate.sum(0)); *gbranch_ = own(gbranch))
}

// Mean cosine similarity of rows. z and t [N,D]; stats [N,3] keeps |z|^2, |t|^2 and <z,t>.
int rl_cosine(Handle z_, Handle t_, double eps, Handle* mean_, Handle* stats_) {
  RL_TRY(expect_equal("a target", *z_, *t_); Tensor z = z_->contiguous(); Tensor t = t_->contiguous();
         const int64_t N = z.size(0); const int64_t D = z.size(1); Tensor stats = at::empty({N, 3}, z.options());
         const float* zp = z.const_data_ptr<float>(); const float* tp = t.const_data_ptr<float>();
         float* sp = stats.data_ptr<float>(); at::parallel_for(0, N, 16, [&](int64_t begin, int64_t end) {
           for (int64_t r = begin; r < end; r++) {
             float* s = sp + 3 * r;
             cosine_row(zp + r * D, tp + r * D, D, s, s + 1, s + 2);
           }
         });
         double total = 0; for (int64_t r = 0; r < N; r++) {
           const float* s = sp + 3 * r;
           total += s[2] / (std::max(std::sqrt((double)s[0]), eps) * std::max(std::sqrt((double)s[1]), eps));
         } *mean_ = own(at::full({1}, total / N, z.options()));
         *stats_ = own(stats))
}

int rl_cosine_backward(Handle g_, Handle z_, Handle t_, Handle stats_, double eps, Handle* gz_) {
  RL_TRY(Tensor z = z_->contiguous(); Tensor t = t_->contiguous(); const int64_t N = z.size(0);
         const int64_t D = z.size(1); Tensor gz = at::empty_like(z); const float g = *g_->const_data_ptr<float>() / N;
         const float* zp = z.const_data_ptr<float>(); const float* tp = t.const_data_ptr<float>();
         const float* sp = stats_->const_data_ptr<float>(); float* op = gz.data_ptr<float>();
         at::parallel_for(0, N, 16, [&](int64_t begin, int64_t end) {
           for (int64_t r = begin; r < end; r++) {
             const float* s = sp + 3 * r;
             const double nz = std::sqrt((double)s[0]);
             const double dz = std::max(nz, eps), dt = std::max(std::sqrt((double)s[1]), eps);
             // Below eps the norm is a constant and only the first term is left.
             const double b = nz > eps ? -s[2] / (dz * dt * dz * nz) : 0.0;
             axpby_row(tp + r * D, zp + r * D, (float)(g / (dz * dt)), (float)(g * b), op + r * D, D);
           }
         });
         *gz_ = own(gz))
}

// Global L2 norm of all gradients, as a tensor of one element on their device.
int rl_global_norm(Handle* grads, int64_t n, Handle* norm) {
  RL_TRY(auto norms = at::_foreach_norm(list(grads, n), 2); *norm = own(at::stack(norms).norm().reshape({1})))
}

// AdamW in place. `divisor` (one element, or null) divides every gradient first: the clip coefficient's inverse.
int rl_fused_adamw(Handle* p, Handle* g, Handle* m, Handle* v, int64_t n, double step, double lr, double b1, double b2,
                   double wd, double eps, Handle divisor) {
  RL_TRY(at::NoGradGuard no_grad; auto P = list(p, n); if (n == 0) return 0;
         Tensor s = at::scalar_tensor(step, P[0].options()); std::vector<Tensor> S(n, s);
         std::optional<Tensor> scale; if (divisor) scale = divisor->reshape({});
         at::_fused_adamw_(P, list(g, n), list(m, n), list(v, n), {}, S, lr, b1, b2, wd, eps, false, false, scale))
}

// a + b for every pair, into new tensors.
int rl_foreach_add(Handle* a, Handle* b, int64_t n, Handle* sums) {
  RL_TRY(at::NoGradGuard no_grad; if (n == 0) return 0; auto added = at::_foreach_add(list(a, n), list(b, n), 1);
         for (int64_t i = 0; i < n; i++) sums[i] = own(added[i]))
}

// a += weight * (b - a) for every pair, in place.
int rl_foreach_lerp(Handle* a, Handle* b, int64_t n, double weight) {
  RL_TRY(at::NoGradGuard no_grad; if (n == 0) return 0; at::_foreach_lerp_(list(a, n), list(b, n), weight))
}
}
