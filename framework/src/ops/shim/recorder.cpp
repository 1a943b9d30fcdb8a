// What libtorch does while a recording is open on a thread: operations with their times, waits of the host for the
// device, and memory.
#include <ATen/record_function.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <array>
#include <chrono>
#include <map>
#include <memory>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "shim.h"

namespace {
using Clock = std::chrono::steady_clock;
constexpr int NUM_PHASES = 3;  // forward, backward, update: the order of `Phase` in recorder.rs

struct OpTime {
  int64_t calls = 0;
  double own_s = 0, total_s = 0;
};

struct Frame {
  Clock::time_point start;
  double children_s;
  bool waits;
  bool is_inner;  // inside an operation of libtorch
};

struct Recording : c10::MemoryReportingInfoBase {
  explicit Recording(c10::Device device) : device(device) {}

  // A block that was made before the recording is not counted, neither is its end.
  void reportMemoryUsage(void* block, int64_t bytes, size_t, size_t, c10::Device where) override {
    if (where.type() != device.type()) return;
    auto known = blocks.find(block);
    if (known != blocks.end()) {
      live_bytes -= known->second;
      blocks.erase(known);
    }
    if (bytes <= 0) return;
    blocks.emplace(block, bytes);
    live_bytes += bytes;
    peak_bytes = std::max(peak_bytes, live_bytes);
  }
  bool memoryProfilingEnabled() const override { return true; }

  c10::Device device;
  int phase = 0;
  std::vector<Frame> frames;
  bool is_after_reshape = false;  // the operation before this one
  std::unordered_map<std::string, std::array<OpTime, NUM_PHASES>> ops;
  std::map<std::string, int64_t> waits;
  std::unordered_map<void*, int64_t> blocks;
  int64_t live_bytes = 0, peak_bytes = 0;
};

struct Open {
  explicit Open(c10::Device device)
      : recording(std::make_shared<Recording>(device)),
        memory(c10::DebugInfoKind::PROFILER_STATE, recording) {}

  std::shared_ptr<Recording> recording;
  c10::DebugInfoGuard memory;
  at::CallbackHandle callback = at::INVALID_CALLBACK_HANDLE;
  // As lists, so that they can be asked for by place.
  std::vector<std::pair<std::string, std::array<OpTime, NUM_PHASES>>> ops;
  std::vector<std::pair<std::string, int64_t>> waits;
};

thread_local std::unique_ptr<Open> open;

bool is_cpu_tensor(const c10::IValue& value) { return value.isTensor() && value.toTensor().is_cpu(); }

// Why the host waits for the device inside this operation; null where it does not.
//
// On a CPU nothing waits, but the calls that would are told by what burn asks for: it reads a tensor through a `reshape`
// and a `to` of the flat tensor's own type, and fills one through a `to` that names a device alone. What libtorch's kernels
// for the CPU do inside says nothing: AdamW reads its step there, and not on CUDA.
const char* wait_of(const at::RecordFunction& op, const Recording& recording, bool is_inner) {
  const std::string_view name = op.name();
  if (recording.device.is_cpu()) {
    if (is_inner) return nullptr;
    if (name == "aten::item" || name == "aten::is_nonzero") return "aten::_local_scalar_dense";
  }
  for (const char* known : {"aten::_local_scalar_dense", "aten::nonzero", "aten::argwhere", "aten::masked_select", "aten::equal",
                            "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive"})
    if (name == known) return known;
  const auto inputs = op.inputs();
  if (name == "aten::copy_" && inputs.size() > 2 && inputs[0].isTensor() && inputs[1].isTensor()) {
    const bool to_cpu = is_cpu_tensor(inputs[0]), from_cpu = is_cpu_tensor(inputs[1]);
    if (to_cpu == from_cpu || (inputs[2].isBool() && inputs[2].toBool())) return nullptr;
    return to_cpu ? "read" : "upload";
  }
  const bool is_to = name == "aten::to" && std::string_view(op.overload_name()) == "dtype_layout";
  if (!is_to || !recording.device.is_cpu() || inputs.size() < 2 || !is_cpu_tensor(inputs[0])) return nullptr;
  if (inputs[1].isNone()) return "upload";
  const at::Tensor& tensor = inputs[0].toTensor();
  const bool is_own_type = inputs[1].isInt() && inputs[1].toInt() == static_cast<int64_t>(tensor.scalar_type());
  return recording.is_after_reshape && tensor.dim() == 1 && is_own_type ? "read" : nullptr;
}

// The device works behind the host's back: without this a time would be that of the launch, or that of a kernel which
// the operation around this one launched before.
void wait_for_device(const Recording& recording) {
  if (!recording.device.is_cpu())
    c10::impl::VirtualGuardImpl(recording.device.type()).synchronizeDevice(recording.device.index());
}

std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction& op) {
  if (!open) return nullptr;
  Recording& recording = *open->recording;
  wait_for_device(recording);
  const bool is_inside = !recording.frames.empty() && recording.frames.back().waits;
  const bool is_inner = !recording.frames.empty() && recording.frames.back().is_inner;
  const char* wait = is_inside ? nullptr : wait_of(op, recording, is_inner);
  if (wait) recording.waits[wait]++;
  const bool is_ours = std::string_view(op.name()).substr(0, 9) == "realign::";
  recording.frames.push_back({Clock::now(), 0, is_inside || wait, is_inner || !is_ours});
  return nullptr;
}

void end(const at::RecordFunction& op, at::ObserverContext*) {
  if (!open || open->recording->frames.empty()) return;
  Recording& recording = *open->recording;
  wait_for_device(recording);
  const Frame frame = recording.frames.back();
  recording.frames.pop_back();
  const double total_s = std::chrono::duration<double>(Clock::now() - frame.start).count();
  if (!recording.frames.empty()) recording.frames.back().children_s += total_s;
  if (recording.frames.empty()) recording.is_after_reshape = std::string_view(op.name()) == "aten::reshape";
  OpTime& time = recording.ops[op.name()][recording.phase];
  time.calls++;
  time.total_s += total_s;
  time.own_s += std::max(0.0, total_s - frame.children_s);
}

Open& opened() {
  TORCH_CHECK(open, "no recording is open on this thread");
  return *open;
}
}  // namespace

extern "C" {
// `cuda` is the device's index, or -1 for the CPU.
int rl_record_open(int cuda) {
  RL_CALL(TORCH_CHECK(!open, "a recording is open on this thread already");
         const c10::Device device = cuda < 0 ? c10::Device(c10::kCPU) : c10::Device(c10::kCUDA, cuda);
         auto fresh = std::make_unique<Open>(device);
         fresh->callback = at::addThreadLocalCallback(
             at::RecordFunctionCallback(begin, end)
                 .needsInputs(true)
                 .scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION, at::RecordScope::USER_SCOPE}));
         open = std::move(fresh))
}

// Ends the recording but keeps what it saw until the next call of rl_record_drop.
int rl_record_close(int64_t* num_ops, int64_t* num_waits) {
  RL_CALL(Open& it = opened(); at::removeCallback(it.callback); it.callback = at::INVALID_CALLBACK_HANDLE;
         const auto& ops = it.recording->ops; it.ops.assign(ops.begin(), ops.end());
         const auto& waits = it.recording->waits; it.waits.assign(waits.begin(), waits.end());
         *num_ops = it.ops.size(); *num_waits = it.waits.size())
}

int rl_record_drop() {
  RL_CALL(if (open && open->callback != at::INVALID_CALLBACK_HANDLE) at::removeCallback(open->callback); open.reset())
}

int rl_record_op(int64_t place, int phase, const char** name, int64_t* calls, double* own_s, double* total_s) {
  RL_CALL(const auto& [text, times] = opened().ops.at(place); *name = text.c_str(); *calls = times.at(phase).calls;
         *own_s = times.at(phase).own_s; *total_s = times.at(phase).total_s)
}

int rl_record_wait(int64_t place, const char** name, int64_t* count) {
  RL_CALL(const auto& wait = opened().waits.at(place); *name = wait.first.c_str(); *count = wait.second)
}

// Returns the phase before; nothing is done where no recording is open.
int rl_record_phase(int phase) {
  if (!open || phase < 0 || phase >= NUM_PHASES) return 0;
  return std::exchange(open->recording->phase, phase);
}

int rl_record_memory(int64_t* live_bytes, int64_t* peak_bytes) {
  RL_CALL(const Recording& it = *opened().recording; *live_bytes = it.live_bytes; *peak_bytes = it.peak_bytes)
}

int rl_record_restart() {
  RL_CALL(Recording& it = *opened().recording; it.ops.clear(); it.waits.clear(); it.peak_bytes = it.live_bytes)
}

int rl_record_count_waits(int64_t* count) {
  RL_CALL(*count = 0; for (const auto& wait : opened().recording->waits) *count += wait.second)
}
}
