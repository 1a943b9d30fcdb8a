// Resizing of picture planes by sparse linear maps of both axes, f32 on the CPU.
#include <vector>

#include "shim.h"

using namespace realign;

namespace {
// Output pixel i is the sum of `weights[k] * x[first[i] + k]` over its `count` taps, from `weights + i * count` on.
struct Axis {
  const int32_t* first;
  const float* weights;
  int64_t count, size;
};

RL_SIMD void mix_rows(const float* x, int64_t width, const Axis& rows, int64_t y, float* out) {
  for (int64_t k = 0; k < rows.count; k++) {
    const float w = rows.weights[y * rows.count + k];
    const float* line = x + (rows.first[y] + k) * width;
    if (k == 0) {
#pragma omp simd
      for (int64_t i = 0; i < width; i++) out[i] = w * line[i];
    } else {
#pragma omp simd
      for (int64_t i = 0; i < width; i++) out[i] += w * line[i];
    }
  }
}

RL_SIMD void mix_columns(const float* line, const Axis& columns, float* out) {
  const float* w = columns.weights;
  if (columns.count == 4) {
    for (int64_t i = 0; i < columns.size; i++, w += 4) {
      const float* x = line + columns.first[i];
      out[i] = (w[0] * x[0] + w[1] * x[1]) + (w[2] * x[2] + w[3] * x[3]);
    }
    return;
  }
  for (int64_t i = 0; i < columns.size; i++, w += columns.count) {
    const float* x = line + columns.first[i];
    float sum = 0;
    for (int64_t k = 0; k < columns.count; k++) sum += w[k] * x[k];
    out[i] = sum;
  }
}
}  // namespace

extern "C" {
// x [planes, H, W]; y [planes, rows.size, columns.size].
int rl_resize(Handle x_, const int32_t* row_first, const float* row_weights, int64_t row_taps, int64_t height,
              const int32_t* column_first, const float* column_weights, int64_t column_taps, int64_t width,
              Handle* y_) {
  RL_TRY(Tensor x = x_->contiguous(); const int64_t N = x.size(0); const int64_t H = x.size(1);
         const int64_t W = x.size(2); const Axis rows{row_first, row_weights, row_taps, height};
         const Axis columns{column_first, column_weights, column_taps, width};
         for (int64_t i = 0; i < height; i++)
           TORCH_CHECK(row_first[i] >= 0 && row_first[i] + row_taps <= H, "a row's taps lie outside of ", H, " rows");
         for (int64_t i = 0; i < width; i++)
           TORCH_CHECK(column_first[i] >= 0 && column_first[i] + column_taps <= W, "a column's taps lie outside of ", W,
                       " columns");
         Tensor y = at::empty({N, height, width}, x.options()); const float* xp = x.const_data_ptr<float>();
         float* yp = y.data_ptr<float>();
         at::parallel_for(0, N * height, 16, [&](int64_t begin, int64_t end) {
           std::vector<float> line(W);
           for (int64_t unit = begin; unit < end; unit++) {
             const int64_t n = unit / height, row = unit % height;
             mix_rows(xp + n * H * W, W, rows, row, line.data());
             mix_columns(line.data(), columns, yp + unit * width);
           }
         });
         *y_ = own(y))
}
}
