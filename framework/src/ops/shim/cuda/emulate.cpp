// Runs the kernels on the CPU, a thread for each of the device's, and compares them with plain sums in f64.
// A test compiles and runs it: what it covers is everything about the kernels but the device.
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __shared__ static
#define __launch_bounds__(...)

struct Index {
  unsigned x;
};
static thread_local Index threadIdx, blockIdx, blockDim;

class Barrier {
 public:
  explicit Barrier(unsigned threads) : threads(threads) {}

  void wait() {
    std::unique_lock<std::mutex> held(lock);
    const unsigned mine = round;
    if (++arrived == threads) {
      arrived = 0;
      round++;
      all_here.notify_all();
    } else {
      all_here.wait(held, [&] { return round != mine; });
    }
  }

 private:
  std::mutex lock;
  std::condition_variable all_here;
  unsigned threads, arrived = 0, round = 0;
};

static std::unique_ptr<Barrier> of_block;
static std::vector<std::unique_ptr<Barrier>> of_warp;
static float exchanged[1024];

static void __syncthreads() { of_block->wait(); }

static float __shfl_xor_sync(unsigned, float x, int mask) {
  auto& warp = *of_warp[threadIdx.x / 32];
  exchanged[threadIdx.x] = x;
  warp.wait();
  const float found = exchanged[threadIdx.x ^ mask];
  warp.wait();
  return found;
}

static float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

static unsigned emulated_rounding(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, 4);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static void run(unsigned blocks, unsigned threads, const std::function<void()>& kernel) {
  for (unsigned block = 0; block < blocks; block++) {
    of_block = std::make_unique<Barrier>(threads);
    of_warp.clear();
    for (unsigned warp = 0; warp < threads / 32; warp++) of_warp.push_back(std::make_unique<Barrier>(32));
    std::vector<std::thread> all;
    for (unsigned thread = 0; thread < threads; thread++)
      all.emplace_back([=, &kernel] {
        threadIdx = {thread}, blockIdx = {block}, blockDim = {threads};
        kernel();
        // Threads of a warp that leave early do so together: rows belong to warps.
      });
    for (auto& thread : all) thread.join();
  }
}

#define D 12
namespace narrow {
#include "kernels.cu"
}
#undef D
#define D 260
namespace wide {
#include "kernels.cu"
}
#undef D

typedef std::vector<float> Floats;
typedef std::vector<uint16_t> Rounded;

static std::mt19937 generator(7);

static Floats draw(size_t count) {
  std::normal_distribution<float> normal(0.3f, 1.0f);
  Floats values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

static Rounded rounded(const Floats& values) {
  Rounded halves;
  for (float value : values) halves.push_back(emulated_rounding(value));
  return halves;
}

static double at(const Floats& x, size_t i) { return x[i]; }
static double at(const Rounded& x, size_t i) { return __uint_as_float(x[i] << 16); }

static int failures = 0;

template <class Found>
static void expect(const char* what, int width, const Found& found, const std::vector<double>& expected) {
  const double allowed = sizeof(found[0]) == 2 ? 4e-3 : 2e-6;
  double gap = 0, largest = 0;
  for (size_t i = 0; i < expected.size(); i++) {
    const double error = std::fabs(at(found, i) - expected[i]);
    gap = error >= gap ? error : std::isnan(error) ? INFINITY : gap;
    largest = std::max(largest, std::fabs(expected[i]));
  }
  const bool is_close = found.size() == expected.size() && gap <= allowed * largest;
  if (!is_close) failures++;
  std::printf("%s at width %d: %.1e of the largest%s\n", what, width, gap / largest, is_close ? "" : " FAILED");
}

static std::vector<double> over_parts(const Floats& sums, int parts, size_t size) {
  std::vector<double> total(size);
  for (int part = 0; part < parts; part++)
    for (size_t i = 0; i < size; i++) total[i] += sums[part * size + i];
  return total;
}

static Floats as_floats(const std::vector<double>& x) { return Floats(x.begin(), x.end()); }

constexpr int samples = 2, tokens = 11, parts = 2, stride_factor = 6;
constexpr float eps = 1e-6f;

struct Modulation {
  Floats all;
  int width, part;
  const float* data() const { return all.data() + part * width; }
  long long stride() const { return stride_factor * width; }
  double of(int sample, int channel) const { return all[sample * stride() + part * width + channel]; }
};

template <bool RMS, class Forward, class Backward, class Store, class Convert>
static void check_norm(int d, Forward forward, Backward backward, Store, Convert convert) {
  const int rows = samples * tokens;
  const size_t count = (size_t)rows * d;
  const Floats x = draw(count), all = draw((size_t)samples * stride_factor * d);
  const Modulation shift{all, d, 1}, scale{all, d, 4};
  const Store g = convert(draw(count));
  const Floats stream = draw(count);
  Store y(count);
  Floats mean(rows), rstd(rows), gx(count), gshift(parts * samples * d), gscale(parts * samples * d);
  run((rows + 7) / 8, 256, [&] {
    forward(x.data(), shift.data(), shift.stride(), scale.data(), scale.stride(), y.data(), mean.data(), rstd.data(), rows,
            tokens, eps);
  });
  run(samples * parts, 128, [&] {
    backward(g.data(), x.data(), scale.data(), scale.stride(), mean.data(), rstd.data(), RMS ? nullptr : stream.data(),
             gx.data(), gshift.data(), gscale.data(), samples, tokens, parts);
  });
  std::vector<double> out(count), to_x(count), to_shift(samples * d), to_scale(samples * d);
  for (int row = 0; row < rows; row++) {
    const int sample = row / tokens;
    const size_t at_row = (size_t)row * d;
    double m = 0, squares = 0, c1 = 0, c2 = 0;
    for (int i = 0; i < d; i++) m += RMS ? 0 : x[at_row + i] / (double)d;
    for (int i = 0; i < d; i++) squares += (x[at_row + i] - m) * (x[at_row + i] - m) / d;
    const double r = 1 / std::sqrt(squares + eps);
    auto factor = [&](int i) { return scale.of(sample, i) + (RMS ? 0 : 1); };
    for (int i = 0; i < d; i++) {
      const double xh = (x[at_row + i] - m) * r, in = at(g, at_row + i);
      out[at_row + i] = xh * factor(i) + shift.of(sample, i);
      c1 += RMS ? 0 : in * factor(i) / d;
      c2 += in * factor(i) * xh / d;
      to_shift[sample * d + i] += in;
      to_scale[sample * d + i] += in * xh;
    }
    for (int i = 0; i < d; i++) {
      const double xh = (x[at_row + i] - m) * r;
      to_x[at_row + i] = (RMS ? 0 : stream[at_row + i]) + r * (at(g, at_row + i) * factor(i) - c1 - xh * c2);
    }
  }
  const size_t size = (size_t)samples * d;
  expect(RMS ? "RMSNorm" : "LayerNorm", d, y, out);
  expect("its gradient of x", d, gx, to_x);
  expect("its gradient of the shift", d, as_floats(over_parts(gshift, parts, size)), to_shift);
  expect("its gradient of the scale", d, as_floats(over_parts(gscale, parts, size)), to_scale);
}

template <class Forward, class Backward, class Store, class Convert>
static void check_gate(int d, Forward forward, Backward backward, Store, Convert convert) {
  const int rows = samples * tokens;
  const size_t count = (size_t)rows * d;
  const Floats x = draw(count), g = draw(count);
  const Modulation gate{draw((size_t)samples * stride_factor * d), d, 2};
  const Store branch = convert(draw(count));
  Floats y(count), ggate(parts * samples * d);
  Store gbranch(count);
  run((rows + 7) / 8, 256,
      [&] { forward(x.data(), gate.data(), gate.stride(), branch.data(), y.data(), rows, tokens); });
  run(samples * parts, 128, [&] {
    backward(g.data(), gate.data(), gate.stride(), branch.data(), gbranch.data(), ggate.data(), samples, tokens, parts);
  });
  std::vector<double> out(count), to_branch(count), to_gate(samples * d);
  for (size_t i = 0; i < count; i++) {
    const int sample = i / d / tokens, channel = i % d;
    out[i] = x[i] + gate.of(sample, channel) * at(branch, i);
    to_branch[i] = gate.of(sample, channel) * g[i];
    to_gate[sample * d + channel] += g[i] * at(branch, i);
  }
  expect("gated residual", d, y, out);
  expect("its gradient of the branch", d, gbranch, to_branch);
  expect("its gradient of the gate", d, as_floats(over_parts(ggate, parts, (size_t)samples * d)), to_gate);
}

template <class Forward, class Backward, class Store, class Convert>
static void check_swiglu(int d, Forward forward, Backward backward, Store, Convert convert) {
  const int rows = samples * tokens;
  const size_t count = (size_t)rows * d;
  const Store x = convert(draw(2 * count)), g = convert(draw(count));
  Store y(count), gx(2 * count);
  run((rows + 7) / 8, 256, [&] { forward(x.data(), y.data(), rows); });
  run((rows + 7) / 8, 256, [&] { backward(g.data(), x.data(), gx.data(), rows); });
  std::vector<double> out(count), to_x(2 * count);
  for (size_t i = 0; i < count; i++) {
    const size_t first = i / d * 2 * d + i % d;
    const double a = at(x, first), b = at(x, first + d), s = 1 / (1 + std::exp(-a));
    out[i] = a * s * b;
    to_x[first] = at(g, i) * b * s * (1 + a * (1 - s));
    to_x[first + d] = at(g, i) * a * s;
  }
  expect("SwiGLU", d, y, out);
  expect("its gradient", d, gx, to_x);
}

template <class Forward, class Backward, class Store, class Convert>
static void check_rotary(int d, Forward forward, Backward backward, Store, Convert convert) {
  constexpr int heads = 2, blocks = 3, rows = samples * tokens;
  const size_t count = (size_t)rows * 3 * heads * d;
  const Store x = convert(draw(count)), g = convert(draw(count));
  const Floats q = draw(d), k = draw(d), cosines = draw(tokens * d / 2), sines = draw(tokens * d / 2);
  Store y(count), gx(count);
  Floats rstd(rows * 2 * heads), gweights(blocks * 2 * d);
  run((rows * 3 * heads + 7) / 8, 256, [&] {
    forward(x.data(), q.data(), k.data(), cosines.data(), sines.data(), y.data(), rstd.data(), rows, tokens, heads, eps);
  });
  run(blocks, 128, [&] {
    backward(g.data(), x.data(), q.data(), k.data(), cosines.data(), sines.data(), rstd.data(), gx.data(),
             gweights.data(), rows, tokens, heads, blocks);
  });
  std::vector<double> out(count), to_x(count), to_weights(2 * d);
  for (size_t head = 0; head < (size_t)rows * 3 * heads; head++) {
    const size_t first = head * d, row = head / (3 * heads), n = head % (3 * heads);
    double squares = 0, along = 0;
    std::vector<double> back(d);
    for (int i = 0; i < d; i++) squares += at(x, first + i) * at(x, first + i) / d;
    const double r = 1 / std::sqrt(squares + eps);
    const Floats& w = n < heads ? q : k;
    for (int i = 0; i < d; i++) {
      const size_t turn = row % tokens * (d / 2) + i / 2;
      const double c = cosines[turn], s = i % 2 ? -sines[turn] : sines[turn];
      const size_t other = first + (i ^ 1);
      if (n >= 2 * heads) {
        out[first + i] = at(x, first + i);
        to_x[first + i] = at(g, first + i);
        continue;
      }
      out[first + i] = r * (at(x, first + i) * w[i] * c - at(x, other) * w[i ^ 1] * s);
      back[i] = at(g, first + i) * c + at(g, other) * s;
      along += back[i] * w[i] * at(x, first + i) * r / d;
      to_weights[(n < heads ? 0 : d) + i] += back[i] * at(x, first + i) * r;
    }
    for (int i = 0; i < d && n < 2 * heads; i++) to_x[first + i] = r * (back[i] * w[i] - at(x, first + i) * r * along);
  }
  expect("rotary norm", d, y, out);
  expect("its gradient of x", d, gx, to_x);
  expect("its gradients of the weights", d, as_floats(over_parts(gweights, blocks, 2 * d)), to_weights);
}

#define CHECK(space, width, T, Store, convert)                                                                    \
  check_norm<false>(width, space::norm_forward<false, T>, space::norm_backward<false, T>, Store{}, convert);      \
  check_norm<true>(width, space::norm_forward<true, T>, space::norm_backward<true, T>, Store{}, convert);         \
  check_gate(width, space::gate_forward<T>, space::gate_backward<T>, Store{}, convert);                           \
  check_swiglu(width, space::swiglu_forward<T>, space::swiglu_backward<T>, Store{}, convert);                      \
  check_rotary(width, space::rotary_forward<T>, space::rotary_backward<T>, Store{}, convert);

int main() {
  const auto same = [](Floats values) { return values; };
  CHECK(narrow, 12, float, Floats, same)
  CHECK(narrow, 12, unsigned short, Rounded, rounded)
  CHECK(wide, 260, float, Floats, same)
  CHECK(wide, 260, unsigned short, Rounded, rounded)
  return failures > 0;
}
