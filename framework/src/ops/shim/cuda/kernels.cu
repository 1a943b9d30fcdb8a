// Kernels for NVIDIA devices, compiled at run time for each width of rows: D channels, a multiple of four.
//
// A warp walks over a row and keeps it in registers, so that each number is read once and written once. Arithmetic is
// f32; `u16` is bf16 in memory. Sums over the tokens of a sample are made in a fixed order and handed out in parts.
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;

struct alignas(16) Four {
  float v[4];
};

struct alignas(8) Halves {
  u32 low, high;
};

__device__ inline float of_bits(u32 bits) { return __uint_as_float(bits); }

// Two floats rounded to bf16, the first in the low half.
__device__ inline u32 rounded(float first, float second) {
#ifdef __CUDACC__
  u32 both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  return both;
#else
  return emulated_rounding(first) | emulated_rounding(second) << 16;
#endif
}

__device__ inline Four load(const float* p) { return *reinterpret_cast<const Four*>(p); }

__device__ inline Four load(const u16* p) {
  const Halves h = *reinterpret_cast<const Halves*>(p);
  return {of_bits(h.low << 16), of_bits(h.low & 0xffff0000u), of_bits(h.high << 16), of_bits(h.high & 0xffff0000u)};
}

__device__ inline void store(float* p, const Four& x) { *reinterpret_cast<Four*>(p) = x; }

__device__ inline void store(u16* p, const Four& x) {
  *reinterpret_cast<Halves*>(p) = {rounded(x.v[0], x.v[1]), rounded(x.v[2], x.v[3])};
}

__device__ inline float warp_sum(float x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// Calls f(vector of this lane, first channel) for every vector of four channels that a lane holds.
template <class F>
__device__ inline void each_vector(F f) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < (D / 4 + 31) / 32; k++)
    if (const int at = k * 32 + lane; at < D / 4) f(k, at * 4);
}

struct Row {
  Four at[(D / 4 + 31) / 32];

  __device__ void clear() {
    each_vector([&](int k, int) { at[k] = {0, 0, 0, 0}; });
  }
};

// y = (x - mean) * rstd * factor + shift. LayerNorm: factor is 1 + scale. RMSNorm: the mean is zero, factor is `scale`.
template <bool RMS, class Y>
__global__ void norm_forward(const float* x, const float* shift, i64 shift_stride, const float* scale, i64 scale_stride,
                             Y* y, float* mean, float* rstd, i64 rows, int tokens, float eps) {
  const i64 row = blockIdx.x * (i64)(blockDim.x / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  Row in;
  float m = 0;
  each_vector([&](int k, int c) {
    in.at[k] = load(x + row * D + c);
    for (int i = 0; i < 4; i++) m += in.at[k].v[i];
  });
  m = RMS ? 0 : warp_sum(m) / D;
  float squares = 0;
  each_vector([&](int k, int) {
    for (int i = 0; i < 4; i++) squares += (in.at[k].v[i] - m) * (in.at[k].v[i] - m);
  });
  const float r = 1.0f / sqrtf(warp_sum(squares) / D + eps);
  const i64 sample = row / tokens;
  each_vector([&](int k, int c) {
    const Four h = load(shift + sample * shift_stride + c), s = load(scale + sample * scale_stride + c);
    Four out;
    for (int i = 0; i < 4; i++) out.v[i] = (in.at[k].v[i] - m) * r * (RMS ? s.v[i] : 1.0f + s.v[i]) + h.v[i];
    store(y + row * D + c, out);
  });
  if (threadIdx.x % 32 == 0) {
    if (!RMS) mean[row] = m;
    rstd[row] = r;
  }
}

// Sums of all warps of a block, in the order of the warps, written to `out`.
__device__ inline void write_sum_of_warps(const Row& mine, float* shared, float* out) {
  for (int warp = 0; warp < blockDim.x / 32; warp++) {
    if (threadIdx.x / 32 == warp) {
      each_vector([&](int k, int c) {
        Four sum = mine.at[k];
        if (warp > 0) {
          const Four before = load(shared + c);
          for (int i = 0; i < 4; i++) sum.v[i] += before.v[i];
        }
        store(shared + c, sum);
      });
    }
    __syncthreads();
  }
  if (threadIdx.x / 32 == 0) each_vector([&](int, int c) { store(out + c, load(shared + c)); });
  __syncthreads();
}

// The rows of a sample that this warp walks over: block (sample, part) of `parts` in each sample.
struct Walk {
  i64 sample, part, row, end;

  __device__ Walk(int tokens, int parts) {
    sample = blockIdx.x / parts;
    part = blockIdx.x % parts;
    row = sample * tokens + (i64)tokens * part / parts + threadIdx.x / 32;
    end = sample * tokens + (i64)tokens * (part + 1) / parts;
  }

  // Where the sums of this block go in [parts, samples, D].
  __device__ i64 sums(i64 samples) const { return (part * samples + sample) * D; }
};

// Gradients of x, to which `stream` (or nothing) is added, and of shift and factor as sums of parts.
template <bool RMS, class G>
__global__ void __launch_bounds__(128, D <= 1152 ? 3 : 2)
    norm_backward(const G* g, const float* x, const float* scale, i64 scale_stride, const float* mean, const float* rstd,
                  const float* stream, float* gx, float* gshift, float* gfactor, i64 samples, int tokens, int parts) {
  __shared__ Four shared_vectors[D / 4];
  float* const shared = shared_vectors[0].v;
  const Walk walk(tokens, parts);
  Row sum_shift, sum_factor;
  sum_shift.clear();
  sum_factor.clear();
  for (i64 row = walk.row; row < walk.end; row += blockDim.x / 32) {
    const float m = RMS ? 0 : mean[row], r = rstd[row];
    Row normalized;
    float c1 = 0, c2 = 0;
    each_vector([&](int k, int c) {
      normalized.at[k] = load(x + row * D + c);
      const Four in = load(g + row * D + c), s = load(scale + walk.sample * scale_stride + c);
      for (int i = 0; i < 4; i++) {
        float& xh = normalized.at[k].v[i];
        xh = (xh - m) * r;
        const float gg = in.v[i] * (RMS ? s.v[i] : 1.0f + s.v[i]);
        c1 += gg;
        c2 += gg * xh;
        sum_shift.at[k].v[i] += in.v[i];
        sum_factor.at[k].v[i] += in.v[i] * xh;
      }
    });
    c1 = RMS ? 0 : warp_sum(c1) / D;
    c2 = warp_sum(c2) / D;
    // The gradient is near: reading it again costs less than the registers that would keep it.
    each_vector([&](int k, int c) {
      const Four in = load(g + row * D + c), s = load(scale + walk.sample * scale_stride + c);
      Four out = {0, 0, 0, 0};
      if (stream) out = load(stream + row * D + c);
      for (int i = 0; i < 4; i++) {
        const float gg = in.v[i] * (RMS ? s.v[i] : 1.0f + s.v[i]);
        out.v[i] += r * (gg - c1 - normalized.at[k].v[i] * c2);
      }
      store(gx + row * D + c, out);
    });
  }
  write_sum_of_warps(sum_shift, shared, gshift + walk.sums(samples));
  write_sum_of_warps(sum_factor, shared, gfactor + walk.sums(samples));
}

// y = x + gate * branch.
template <class Branch>
__global__ void gate_forward(const float* x, const float* gate, i64 gate_stride, const Branch* branch, float* y, i64 rows,
                             int tokens) {
  const i64 row = blockIdx.x * (i64)(blockDim.x / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  const i64 sample = row / tokens;
  each_vector([&](int, int c) {
    const Four b = load(branch + row * D + c), a = load(gate + sample * gate_stride + c);
    Four out = load(x + row * D + c);
    for (int i = 0; i < 4; i++) out.v[i] += a.v[i] * b.v[i];
    store(y + row * D + c, out);
  });
}

// Gradient of the branch, and of the gate as sums of parts.
template <class Branch>
__global__ void gate_backward(const float* g, const float* gate, i64 gate_stride, const Branch* branch, Branch* gbranch,
                              float* ggate, i64 samples, int tokens, int parts) {
  __shared__ Four shared_vectors[D / 4];
  float* const shared = shared_vectors[0].v;
  const Walk walk(tokens, parts);
  Row sum;
  sum.clear();
  for (i64 row = walk.row; row < walk.end; row += blockDim.x / 32) {
    each_vector([&](int k, int c) {
      const Four in = load(g + row * D + c), b = load(branch + row * D + c);
      const Four a = load(gate + walk.sample * gate_stride + c);
      Four out;
      for (int i = 0; i < 4; i++) {
        sum.at[k].v[i] += in.v[i] * b.v[i];
        out.v[i] = in.v[i] * a.v[i];
      }
      store(gbranch + row * D + c, out);
    });
  }
  write_sum_of_warps(sum, shared, ggate + walk.sums(samples));
}

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// silu(a) * b of rows [a, b] of D channels each.
template <class T>
__global__ void swiglu_forward(const T* x, T* y, i64 rows) {
  const i64 row = blockIdx.x * (i64)(blockDim.x / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  each_vector([&](int, int c) {
    const Four a = load(x + 2 * row * D + c), b = load(x + (2 * row + 1) * D + c);
    Four out;
    for (int i = 0; i < 4; i++) out.v[i] = a.v[i] * sigmoid(a.v[i]) * b.v[i];
    store(y + row * D + c, out);
  });
}

template <class T>
__global__ void swiglu_backward(const T* g, const T* x, T* gx, i64 rows) {
  const i64 row = blockIdx.x * (i64)(blockDim.x / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  each_vector([&](int, int c) {
    const Four a = load(x + 2 * row * D + c), b = load(x + (2 * row + 1) * D + c), in = load(g + row * D + c);
    Four ga, gb;
    for (int i = 0; i < 4; i++) {
      const float s = sigmoid(a.v[i]), silu = a.v[i] * s;
      ga.v[i] = in.v[i] * b.v[i] * (s + silu * (1.0f - s));
      gb.v[i] = in.v[i] * silu;
    }
    store(gx + 2 * row * D + c, ga);
    store(gx + (2 * row + 1) * D + c, gb);
  });
}

struct Pair {
  float a, b;
};

__device__ inline Pair load_pair(const float* p) { return {p[0], p[1]}; }

__device__ inline Pair load_pair(const u16* p) {
  const u32 both = *reinterpret_cast<const u32*>(p);
  return {of_bits(both << 16), of_bits(both & 0xffff0000u)};
}

__device__ inline void store_pair(float* p, Pair x) { p[0] = x.a, p[1] = x.b; }

__device__ inline void store_pair(u16* p, Pair x) { *reinterpret_cast<u32*>(p) = rounded(x.a, x.b); }

// Calls f(pair of this lane, its number) for every pair of a head of D channels that a lane holds.
template <class F>
__device__ inline void each_pair(F f) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < (D / 2 + 31) / 32; k++)
    if (const int at = k * 32 + lane; at < D / 2) f(k, at);
}

// Heads of D channels, normalized and turned, of tokens that hold queries, keys and values of all heads; values are
// copied. A warp takes one head.
template <class T>
__global__ void rotary_forward(const T* x, const float* q, const float* k, const float* cosines, const float* sines, T* y,
                               float* rstd, i64 rows, int tokens, int heads, float eps) {
  const i64 head = blockIdx.x * (i64)(blockDim.x / 32) + threadIdx.x / 32;
  if (head >= rows * 3 * heads) return;
  const i64 row = head / (3 * heads), at = head * D;
  const int n = head % (3 * heads);
  if (n >= 2 * heads) {
    each_pair([&](int, int j) { store_pair(y + at + 2 * j, load_pair(x + at + 2 * j)); });
    return;
  }
  Pair in[(D / 2 + 31) / 32];
  float squares = 0;
  each_pair([&](int i, int j) {
    in[i] = load_pair(x + at + 2 * j);
    squares += in[i].a * in[i].a + in[i].b * in[i].b;
  });
  const float r = 1.0f / sqrtf(warp_sum(squares) / D + eps);
  const float* weight = n < heads ? q : k;
  const i64 turn = row % tokens * (D / 2);
  each_pair([&](int i, int j) {
    const Pair w = load_pair(weight + 2 * j);
    const float a = in[i].a * r * w.a, b = in[i].b * r * w.b, c = cosines[turn + j], s = sines[turn + j];
    store_pair(y + at + 2 * j, {a * c - b * s, b * c + a * s});
  });
  if (threadIdx.x % 32 == 0) rstd[row * 2 * heads + n] = r;
}

// Gradients of x, and of both weights as sums of parts, [blocks, 2, D].
template <class T>
__global__ void rotary_backward(const T* g, const T* x, const float* q, const float* k, const float* cosines,
                                const float* sines, const float* rstd, T* gx, float* gweights, i64 rows, int tokens,
                                int heads, int blocks) {
  __shared__ float shared[2 * D];
  Pair sums[2][(D / 2 + 31) / 32];
  each_pair([&](int i, int) { sums[0][i] = sums[1][i] = {0, 0}; });
  const i64 end = rows * (blockIdx.x + 1) / blocks * 3 * heads;
  for (i64 head = rows * blockIdx.x / blocks * 3 * heads + threadIdx.x / 32; head < end; head += blockDim.x / 32) {
    const i64 row = head / (3 * heads), at = head * D;
    const int n = head % (3 * heads);
    if (n >= 2 * heads) {
      each_pair([&](int, int j) { store_pair(gx + at + 2 * j, load_pair(g + at + 2 * j)); });
      continue;
    }
    const float r = rstd[row * 2 * heads + n];
    const float* weight = n < heads ? q : k;
    const i64 turn = row % tokens * (D / 2);
    Pair normalized[(D / 2 + 31) / 32], scaled[(D / 2 + 31) / 32];
    float along = 0;
    each_pair([&](int i, int j) {
      const Pair in = load_pair(g + at + 2 * j), xh = load_pair(x + at + 2 * j), w = load_pair(weight + 2 * j);
      const float c = cosines[turn + j], s = sines[turn + j];
      const float a = in.a * c + in.b * s, b = in.b * c - in.a * s;
      normalized[i] = {xh.a * r, xh.b * r};
      scaled[i] = {a * w.a, b * w.b};
      along += scaled[i].a * normalized[i].a + scaled[i].b * normalized[i].b;
      const Pair to_weight = {a * normalized[i].a, b * normalized[i].b};
      if (n < heads)
        sums[0][i] = {sums[0][i].a + to_weight.a, sums[0][i].b + to_weight.b};
      else
        sums[1][i] = {sums[1][i].a + to_weight.a, sums[1][i].b + to_weight.b};
    });
    along = warp_sum(along) / D;
    each_pair([&](int i, int j) {
      store_pair(gx + at + 2 * j, {r * (scaled[i].a - normalized[i].a * along), r * (scaled[i].b - normalized[i].b * along)});
    });
  }
  for (int warp = 0; warp < blockDim.x / 32; warp++) {
    if (threadIdx.x / 32 == warp) {
      each_pair([&](int i, int j) {
        for (int which = 0; which < 2; which++) {
          float* sum = shared + which * D + 2 * j;
          sum[0] = (warp > 0 ? sum[0] : 0) + sums[which][i].a;
          sum[1] = (warp > 0 ? sum[1] : 0) + sums[which][i].b;
        }
      });
    }
    __syncthreads();
  }
  for (int at = threadIdx.x; at < 2 * D; at += blockDim.x) gweights[blockIdx.x * (i64)(2 * D) + at] = shared[at];
}
