// Forward-mode differentiation levels. Making and taking apart duals is bound by tch.
#include <c10/core/AutogradState.h>
#include <torch/csrc/autograd/forward_grad.h>

#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>

using torch::autograd::ForwardADLevel;

extern "C" {
void rl_set_last_error(const char* message);

int rl_forward_ad_enter(uint64_t* level) {
  try {
    const auto& state = c10::AutogradState::get_tls_state();
    if (!state.get_fw_grad_mode() || state.get_inference_mode())
      throw std::runtime_error("forward differentiation is off on this thread");
    *level = ForwardADLevel::get_next_idx();
    return 0;
  } catch (const std::exception& e) {
    rl_set_last_error(e.what());
    return -1;
  }
}

int rl_forward_ad_exit(uint64_t level) {
  try {
    ForwardADLevel::release_idx(level);
    return 0;
  } catch (const std::exception& e) {
    rl_set_last_error(e.what());
    return -1;
  }
}
}
