// Attention on NVIDIA devices: libtorch's kernels, each with its own gradient.
//
// A kernel returns more than its gradient is a function of: sums, lengths, the state of a generator that no dropout uses.
// All of it goes from one call to the other as it came.
#include <ATen/ops/_scaled_dot_product_cudnn_attention.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention_backward.h>
#include <ATen/ops/_scaled_dot_product_efficient_attention.h>
#include <ATen/ops/_scaled_dot_product_efficient_attention_backward.h>
#include <ATen/ops/_scaled_dot_product_flash_attention.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_backward.h>

#include <memory>
#include <tuple>

#include "shim.h"

using namespace realign;

namespace {
// As ops/attention_kernel.rs numbers them.
enum Kernel { cudnn = 0, flash = 1, efficient = 2 };

struct Attended {
  int kernel;
  double scale;
  Tensor q, k, v, out, sums, lengths_q, lengths_k, seed, offset;
  int64_t longest_q = 0, longest_k = 0;

  void attend() {
    c10::SymInt max_q = 0, max_k = 0;
    switch (kernel) {
      case cudnn:
        std::tie(out, sums, lengths_q, lengths_k, max_q, max_k, seed, offset, std::ignore) =
            at::_scaled_dot_product_cudnn_attention(q, k, v, std::nullopt, true, 0.0, false, false, scale);
        break;
      case flash:
        std::tie(out, sums, lengths_q, lengths_k, max_q, max_k, seed, offset, std::ignore) =
            at::_scaled_dot_product_flash_attention(q, k, v, 0.0, false, false, scale);
        break;
      case efficient:
        std::tie(out, sums, seed, offset) =
            at::_scaled_dot_product_efficient_attention(q, k, v, std::nullopt, true, 0.0, false, scale);
        break;
      default:
        TORCH_CHECK(false, "there is no attention kernel ", kernel);
    }
    longest_q = max_q.expect_int();
    longest_k = max_k.expect_int();
  }

  std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& g) const {
    const Tensor none;
    switch (kernel) {
      case cudnn:
        return at::_scaled_dot_product_cudnn_attention_backward(g, q, k, v, out, sums, seed, offset, none, lengths_q,
                                                                lengths_k, longest_q, longest_k, 0.0, false, scale);
      case flash:
        return at::_scaled_dot_product_flash_attention_backward(g, q, k, v, out, sums, lengths_q, lengths_k, longest_q,
                                                                longest_k, 0.0, false, seed, offset, scale);
      default: {
        auto [gq, gk, gv, unused] = at::_scaled_dot_product_efficient_attention_backward(
            g, q, k, v, none, out, sums, seed, offset, 0.0, {true, true, true, false}, false, scale);
        return {gq, gk, gv};
      }
    }
  }
};
}  // namespace

extern "C" {
// q, k, v and out [batch, heads, tokens, head width]; `attended` is for rl_attention_backward and rl_attention_free.
int rl_attention(int kernel, Handle q, Handle k, Handle v, double scale, void** attended, Handle* out) {
  RL_TRY(auto a = std::make_unique<Attended>(); a->kernel = kernel; a->scale = scale; a->q = *q; a->k = *k; a->v = *v;
         a->attend(); *out = own(a->out); *attended = a.release())
}

int rl_attention_backward(const void* attended, Handle g, Handle* gq, Handle* gk, Handle* gv) {
  RL_TRY(auto [to_q, to_k, to_v] = static_cast<const Attended*>(attended)->backward(*g); *gq = own(to_q);
         *gk = own(to_k); *gv = own(to_v))
}

void rl_attention_free(void* attended) { delete static_cast<Attended*>(attended); }
}
