// GroupNorm of channels-last pictures, alone or followed by SiLU.
#include <ATen/ops/native_group_norm.h>
#include <ATen/ops/native_group_norm_backward.h>
#include <ATen/ops/silu_backward.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "shim.h"

using namespace realign;

namespace {
// exp(x) to two units in the last place, in operations that compilers vectorize: x = n ln 2 + r, a polynomial of r
// (Cephes), and n put into the exponent. Beyond the range of f32 it saturates.
inline __attribute__((always_inline)) float exponential(float x) {
  x = x > -87.0f ? x : -87.0f;
  x = x < 88.0f ? x : 88.0f;
  const float n = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f;  // rounds to an integer
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const int32_t bits = ((int32_t)n + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return (p * r * r + r + 1.0f) * power;
}

inline __attribute__((always_inline)) float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

// Sums of x and its square per channel, over rows of `c` channels.
RL_SIMD void sum_rows(const float* x, int64_t rows, int64_t c, double* sum, double* squares) {
  for (int64_t row = 0; row < rows; row++, x += c) {
#pragma omp simd
    for (int64_t i = 0; i < c; i++) {
      const double value = x[i];
      sum[i] += value;
      squares[i] += value * value;
    }
  }
}

// y = x * scale + shift per channel, then SiLU or nothing.
RL_SIMD void affine_rows(const float* x, int64_t rows, int64_t c, const float* scale, const float* shift, float* y) {
  for (int64_t row = 0; row < rows; row++, x += c, y += c) {
#pragma omp simd
    for (int64_t i = 0; i < c; i++) y[i] = x[i] * scale[i] + shift[i];
  }
}

RL_SIMD void silu_rows(const float* x, int64_t rows, int64_t c, const float* scale, const float* shift, float* y) {
  for (int64_t row = 0; row < rows; row++, x += c, y += c) {
#pragma omp simd
    for (int64_t i = 0; i < c; i++) {
      const float t = x[i] * scale[i] + shift[i];
      y[i] = t * sigmoid(t);
    }
  }
}

// The gradient before SiLU: g * d silu(t) / dt.
inline __attribute__((always_inline)) float before_silu(float g, float t) {
  const float s = sigmoid(t);
  return g * s * (1.0f + t * (1.0f - s));
}

// Sums per channel of the gradient d behind the affine map, and of d * x.
RL_SIMD void sum_gradient_rows(const float* g, const float* x, int64_t rows, int64_t c, double* sum, double* along) {
  for (int64_t row = 0; row < rows; row++, g += c, x += c) {
#pragma omp simd
    for (int64_t i = 0; i < c; i++) {
      const double d = g[i];
      sum[i] += d;
      along[i] += d * x[i];
    }
  }
}

RL_SIMD void sum_silu_gradient_rows(const float* g, const float* x, int64_t rows, int64_t c, const float* scale,
                                    const float* shift, double* sum, double* along) {
  for (int64_t row = 0; row < rows; row++, g += c, x += c) {
#pragma omp simd
    for (int64_t i = 0; i < c; i++) {
      const double d = before_silu(g[i], x[i] * scale[i] + shift[i]);
      sum[i] += d;
      along[i] += d * x[i];
    }
  }
}

// gx = d * scale + x * by_x + constant per channel.
RL_SIMD void gradient_rows(const float* g, const float* x, int64_t rows, int64_t c, const float* scale,
                           const float* by_x, const float* constant, float* gx) {
  for (int64_t row = 0; row < rows; row++, g += c, x += c, gx += c) {
#pragma omp simd
    for (int64_t i = 0; i < c; i++) gx[i] = g[i] * scale[i] + x[i] * by_x[i] + constant[i];
  }
}

RL_SIMD void silu_gradient_rows(const float* g, const float* x, int64_t rows, int64_t c, const float* scale,
                                const float* shift, const float* by_x, const float* constant, float* gx) {
  for (int64_t row = 0; row < rows; row++, g += c, x += c, gx += c) {
#pragma omp simd
    for (int64_t i = 0; i < c; i++) {
      const float d = before_silu(g[i], x[i] * scale[i] + shift[i]);
      gx[i] = d * scale[i] + x[i] * by_x[i] + constant[i];
    }
  }
}

// Sizes of a channels-last picture, its rows of channels cut into parts for threads.
struct Rows {
  int64_t batch, channels, groups, pixels, parts;

  Rows(const Tensor& x, int64_t num_groups)
      : batch(x.size(0)), channels(x.size(1)), groups(num_groups), pixels(x.size(2) * x.size(3)) {
    const int64_t wanted = (2 * at::get_num_threads() + batch - 1) / std::max<int64_t>(1, batch);
    parts = std::max<int64_t>(1, std::min<int64_t>(pixels, wanted));
  }

  // Calls f(sample, part, first row, number of rows).
  template <typename F>
  void each(F f) const {
    at::parallel_for(0, batch * parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; unit++) {
        const int64_t b = unit / parts, part = unit % parts;
        const int64_t from = pixels * part / parts, to = pixels * (part + 1) / parts;
        f(b, part, b * pixels + from, to - from);
      }
    });
  }

  // Two sums per sample and channel, [batch, 2, channels].
  template <typename F>
  std::vector<double> sums(F f) const {
    std::vector<double> partial(batch * parts * 2 * channels, 0.0), total(batch * 2 * channels, 0.0);
    each([&](int64_t b, int64_t part, int64_t row, int64_t rows) {
      double* sum = partial.data() + (b * parts + part) * 2 * channels;
      f(b, row, rows, sum, sum + channels);
    });
    for (int64_t unit = 0; unit < batch * parts; unit++)
      for (int64_t i = 0; i < 2 * channels; i++)
        total[unit / parts * 2 * channels + i] += partial[unit * 2 * channels + i];
    return total;
  }
};

// scale = weight * rstd and shift = bias - mean * scale, [batch, channels].
void affine(const Rows& r, const float* w, const float* b, const float* mean, const float* rstd, float* scale,
            float* shift) {
  const int64_t width = r.channels / r.groups;
  for (int64_t at = 0; at < r.batch * r.channels; at++) {
    const int64_t channel = at % r.channels, group = at / r.channels * r.groups + channel / width;
    scale[at] = w[channel] * rstd[group];
    shift[at] = b[channel] - mean[group] * scale[at];
  }
}

void expect_groups(const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t groups) {
  TORCH_CHECK(x.dim() == 4 && groups > 0 && x.size(1) % groups == 0, "pictures of ", x.sizes(),
              " have no whole number of channels in each of ", groups, " groups");
  expect_vector("a weight", weight, x.size(1));
  expect_vector("a bias", bias, x.size(1));
}

bool has_kernel(const Tensor& x) { return x.device().is_cpu() && x.scalar_type() == at::kFloat; }

void forward(const Tensor& x_, const Tensor& w_, const Tensor& b_, int64_t groups, double eps, bool silu,
             Tensor* out, Tensor* mean_, Tensor* rstd_) {
  expect_groups(x_, w_, b_, groups);
  if (!has_kernel(x_)) {
    const Tensor x = x_.contiguous();
    std::tie(*out, *mean_, *rstd_) = at::native_group_norm(x, w_, b_, x.size(0), x.size(1), x.size(2) * x.size(3),
                                                           groups, eps);
    if (silu) *out = at::silu(*out);
    return;
  }
  const Tensor x = x_.contiguous(at::MemoryFormat::ChannelsLast), w = w_.contiguous(), b = b_.contiguous();
  const Rows r(x, groups);
  const int64_t c = r.channels, width = c / groups;
  Tensor y = at::empty_like(x);
  Tensor mean = at::empty({r.batch, groups}, x.options()), rstd = at::empty({r.batch, groups}, x.options());
  const float* xp = x.const_data_ptr<float>();
  float *yp = y.data_ptr<float>(), *mp = mean.data_ptr<float>(), *rp = rstd.data_ptr<float>();
  const auto sums = r.sums([&](int64_t, int64_t row, int64_t rows, double* sum, double* squares) {
    sum_rows(xp + row * c, rows, c, sum, squares);
  });
  for (int64_t at = 0; at < r.batch * groups; at++) {
    const double* sum = sums.data() + at / groups * 2 * c + at % groups * width;
    double m = 0, s = 0;
    for (int64_t i = 0; i < width; i++) m += sum[i], s += sum[c + i];
    m /= width * r.pixels;
    mp[at] = m;
    rp[at] = 1.0 / std::sqrt(std::max(s / (width * r.pixels) - m * m, 0.0) + eps);
  }
  std::vector<float> scale(r.batch * c), shift(r.batch * c);
  affine(r, w.const_data_ptr<float>(), b.const_data_ptr<float>(), mp, rp, scale.data(), shift.data());
  r.each([&](int64_t sample, int64_t, int64_t row, int64_t rows) {
    const auto apply = silu ? silu_rows : affine_rows;
    apply(xp + row * c, rows, c, scale.data() + sample * c, shift.data() + sample * c, yp + row * c);
  });
  *out = y;
  *mean_ = mean;
  *rstd_ = rstd;
}

void backward(const Tensor& g_, const Tensor& x_, const Tensor& w_, const Tensor& b_, const Tensor& mean,
              const Tensor& rstd, int64_t groups, bool silu, Tensor* gx_, Tensor* gw_, Tensor* gb_) {
  expect_groups(x_, w_, b_, groups);
  expect_equal("a gradient", x_, g_);
  if (!has_kernel(x_)) {
    const Tensor x = x_.contiguous();
    Tensor g = g_.contiguous();
    if (silu) {
      const Tensor grouped = x.reshape({x.size(0), groups, -1});
      const Tensor normalized = ((grouped - mean.unsqueeze(2)) * rstd.unsqueeze(2)).view(x.sizes());
      g = at::silu_backward(g, normalized * w_.view({1, -1, 1, 1}) + b_.view({1, -1, 1, 1}));
    }
    std::tie(*gx_, *gw_, *gb_) = at::native_group_norm_backward(g, x, mean, rstd, w_, x.size(0), x.size(1),
                                                                x.size(2) * x.size(3), groups, {true, true, true});
    return;
  }
  const Tensor x = x_.contiguous(at::MemoryFormat::ChannelsLast), g = g_.contiguous(at::MemoryFormat::ChannelsLast);
  const Tensor w = w_.contiguous(), b = b_.contiguous();
  const Rows r(x, groups);
  const int64_t c = r.channels, width = c / groups;
  Tensor gx = at::empty_like(x), gw = at::zeros_like(w), gb = at::zeros_like(b);
  const float *xp = x.const_data_ptr<float>(), *gp = g.const_data_ptr<float>(), *wp = w.const_data_ptr<float>();
  const float *mp = mean.const_data_ptr<float>(), *rp = rstd.const_data_ptr<float>();
  float *ox = gx.data_ptr<float>(), *ow = gw.data_ptr<float>(), *ob = gb.data_ptr<float>();
  std::vector<float> scale(r.batch * c), shift(r.batch * c), by_x(r.batch * c), constant(r.batch * c);
  affine(r, wp, b.const_data_ptr<float>(), mp, rp, scale.data(), shift.data());
  const auto sums = r.sums([&](int64_t sample, int64_t row, int64_t rows, double* sum, double* along) {
    const float *f = scale.data() + sample * c, *s = shift.data() + sample * c;
    if (silu) sum_silu_gradient_rows(gp + row * c, xp + row * c, rows, c, f, s, sum, along);
    else sum_gradient_rows(gp + row * c, xp + row * c, rows, c, sum, along);
  });
  for (int64_t at = 0; at < r.batch * groups; at++) {
    const int64_t sample = at / groups, first = at % groups * width;
    const double *sum = sums.data() + sample * 2 * c, *along = sum + c;
    const double m = mp[at], s = rp[at], count = width * r.pixels;
    double plain = 0, weighted = 0;
    for (int64_t i = first; i < first + width; i++) {
      const double normalized = s * (along[i] - m * sum[i]);  // sum of d times the normalized value
      ow[i] += normalized;
      ob[i] += sum[i];
      plain += wp[i] * sum[i];
      weighted += wp[i] * normalized;
    }
    for (int64_t i = sample * c + first; i < sample * c + first + width; i++) {
      by_x[i] = -s * s * weighted / count;
      constant[i] = -s * plain / count + s * s * m * weighted / count;
    }
  }
  r.each([&](int64_t sample, int64_t, int64_t row, int64_t rows) {
    const float *f = scale.data() + sample * c, *s = shift.data() + sample * c;
    const float *k = by_x.data() + sample * c, *o = constant.data() + sample * c;
    const float *gr = gp + row * c, *xr = xp + row * c;
    if (silu) silu_gradient_rows(gr, xr, rows, c, f, s, k, o, ox + row * c);
    else gradient_rows(gr, xr, rows, c, f, k, o, ox + row * c);
  });
  *gx_ = gx;
  *gw_ = gw;
  *gb_ = gb;
}
}  // namespace

extern "C" {
int rl_group_norm(Handle x, Handle w, Handle b, int64_t groups, double eps, int silu, Handle* y, Handle* mean,
                  Handle* rstd) {
  RL_TRY(Tensor out[3]; forward(*x, *w, *b, groups, eps, silu != 0, out, out + 1, out + 2); *y = own(out[0]);
         *mean = own(out[1]); *rstd = own(out[2]))
}

int rl_group_norm_backward(Handle g, Handle x, Handle w, Handle b, Handle mean, Handle rstd, int64_t groups, int silu,
                           Handle* gx, Handle* gw, Handle* gb) {
  RL_TRY(Tensor out[3]; backward(*g, *x, *w, *b, *mean, *rstd, groups, silu != 0, out, out + 1, out + 2);
         *gx = own(out[0]); *gw = own(out[1]); *gb = own(out[2]))
}
}
