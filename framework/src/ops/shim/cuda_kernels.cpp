// Kernels for NVIDIA devices: compiled when they are first needed, for the device and the width of the rows.
//
// The compiler (NVRTC) and the driver's interface come from libraries of libtorch's, which are opened at run time as
// libtorch_cuda is: this program links neither.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "shim.h"

using namespace realign;

namespace {
// Of the driver's and the compiler's interfaces, as far as they are used here.
typedef struct CUctx_st* Context;
typedef struct CUmod_st* Module;
typedef struct CUfunc_st* Function;
typedef struct _nvrtcProgram* Program;

constexpr int rows_per_block = 8, warps_of_sums = 4, lanes = 32;
// Rows that a warp keeps in registers.
constexpr int64_t widest_kept = 1536, widest = 8192;

struct Libraries {
  int (*create)(Program*, const char*, const char*, int, const char* const*, const char* const*);
  int (*add_expression)(Program, const char*);
  int (*compile)(Program, int, const char* const*);
  int (*log_size)(Program, size_t*);
  int (*log)(Program, char*);
  int (*binary_size)(Program, size_t*);
  int (*binary)(Program, char*);
  int (*lowered)(Program, const char*, const char**);
  int (*destroy)(Program*);
  int (*load)(Module*, const void*);
  int (*function)(Function*, Module, const char*);
  int (*launch)(Function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
  int (*current)(Context*);
  int (*device)(int*, int);
  int (*retain)(Context*, int);
  int (*set_current)(Context);
  int (*error_name)(int, const char**);

  Libraries() {
    void* library = dlopen((libtorch_folder() + "libcaffe2_nvrtc.so").c_str(), RTLD_NOW | RTLD_LOCAL);
    TORCH_CHECK(library, dlerror());
    find(library, "nvrtcCreateProgram", create);
    find(library, "nvrtcAddNameExpression", add_expression);
    find(library, "nvrtcCompileProgram", compile);
    find(library, "nvrtcGetProgramLogSize", log_size);
    find(library, "nvrtcGetProgramLog", log);
    find(library, "nvrtcGetCUBINSize", binary_size);
    find(library, "nvrtcGetCUBIN", binary);
    find(library, "nvrtcGetLoweredName", lowered);
    find(library, "nvrtcDestroyProgram", destroy);
    open_builtins(library);
    find(library, "cuModuleLoadData", load);
    find(library, "cuModuleGetFunction", function);
    find(library, "cuLaunchKernel", launch);
    find(library, "cuCtxGetCurrent", current);
    find(library, "cuDeviceGet", device);
    find(library, "cuDevicePrimaryCtxRetain", retain);
    find(library, "cuCtxSetCurrent", set_current);
    find(library, "cuGetErrorName", error_name);
  }

  void ask(int code, const char* what) const {
    const char* name = nullptr;
    if (code != 0) error_name(code, &name);
    TORCH_CHECK(code == 0, what, " failed: ", name ? name : "CUDA error ", code);
  }

 private:
  // The compiler looks for a library of its own by name alone; it lies beside it.
  void open_builtins(void* library) const {
    int (*version)(int*, int*) = nullptr;
    find(library, "nvrtcVersion", version);
    int major = 0, minor = 0;
    Dl_info compiler{};
    version(&major, &minor);
    if (!dladdr(reinterpret_cast<void*>(create), &compiler) || !compiler.dli_fname) return;
    std::string path = compiler.dli_fname;
    path = path.substr(0, path.rfind('/') + 1) + "libnvrtc-builtins.so.";
    dlopen((path + std::to_string(major) + "." + std::to_string(minor)).c_str(), RTLD_NOW | RTLD_GLOBAL);
  }

  template <class F>
  static void find(void* library, const char* name, F& function) {
    function = reinterpret_cast<F>(dlsym(library, name));
    TORCH_CHECK(function, "libcaffe2_nvrtc has no ", name);
  }
};

const Libraries& libraries() {
  static const Libraries found;
  return found;
}

std::string& source() {
  static std::string text;
  return text;
}

// The machine code of a kernel and its name in there.
std::pair<std::vector<char>, std::string> compiled(const std::string& kernel, int64_t width, int architecture) {
  const Libraries& lib = libraries();
  Program program = nullptr;
  TORCH_CHECK(lib.create(&program, source().c_str(), "kernels.cu", 0, nullptr, nullptr) == 0, "no program was made");
  const std::string target = "--gpu-architecture=sm_" + std::to_string(architecture);
  const std::string size = "-DD=" + std::to_string(width);
  const char* options[] = {target.c_str(), size.c_str(), "--std=c++17"};
  lib.add_expression(program, kernel.c_str());
  if (lib.compile(program, 3, options) != 0) {
    size_t length = 0;
    lib.log_size(program, &length);
    std::string log(length, ' ');
    if (length > 0) lib.log(program, log.data());
    lib.destroy(&program);
    TORCH_CHECK(false, "kernel ", kernel, " for rows of ", width, " does not compile: ", log);
  }
  const char* name = nullptr;
  size_t length = 0;
  TORCH_CHECK(lib.lowered(program, kernel.c_str(), &name) == 0 && lib.binary_size(program, &length) == 0,
              "kernel ", kernel, " has no machine code");
  std::pair<std::vector<char>, std::string> found{std::vector<char>(length), name};
  lib.binary(program, found.first.data());
  lib.destroy(&program);
  return found;
}

Function find_function(const std::string& kernel, int64_t width, int device) {
  static std::mutex lock;
  static std::map<std::tuple<std::string, int64_t, int>, Function> known;
  const std::lock_guard<std::mutex> guard(lock);
  const auto key = std::make_tuple(kernel, width, device);
  if (const auto found = known.find(key); found != known.end()) return found->second;
  const Libraries& lib = libraries();
  const auto [binary, name] = compiled(kernel, width, compute_capability(device));
  Module module = nullptr;
  Function function = nullptr;
  lib.ask(lib.load(&module, binary.data()), "loading a kernel");
  lib.ask(lib.function(&function, module, name.c_str()), "finding a kernel");
  return known[key] = function;
}

// Runs a kernel on the stream that libtorch works on.
template <class... Arguments>
void launch(const std::string& kernel, int64_t width, const Tensor& on, int64_t blocks, int warps, Arguments... values) {
  if (blocks == 0) return;
  const Libraries& lib = libraries();
  const int device = on.device().index();
  const c10::DeviceGuard guard(on.device());
  Context context = nullptr;
  lib.ask(lib.current(&context), "asking for CUDA's context");
  if (!context) {  // a thread that has not used the device yet
    int handle = 0;
    lib.ask(lib.device(&handle, device), "asking for a device");
    lib.ask(lib.retain(&context, handle), "asking for a device's context");
    lib.ask(lib.set_current(context), "using a device's context");
  }
  const auto stream = c10::impl::VirtualGuardImpl(c10::kCUDA).getStream(on.device());
  TORCH_CHECK(stream.id() == 0, "realign's kernels run on libtorch's default stream");
  void* arguments[] = {&values...};
  const Function function = find_function(kernel, width, device);
  lib.ask(lib.launch(function, static_cast<unsigned>(blocks), 1, 1, lanes * warps, 1, 1, 0, nullptr, arguments, nullptr),
          kernel.c_str());
}

int64_t blocks_for(int64_t rows) { return (rows + rows_per_block - 1) / rows_per_block; }

// Blocks for each sample, so that a device is full and each has some rows to sum.
int64_t parts_for(int64_t samples, int64_t tokens) {
  const int64_t wanted = (1024 + samples - 1) / std::max<int64_t>(1, samples);
  return std::max<int64_t>(1, std::min(wanted, tokens / (2 * warps_of_sums)));
}

const char* name_of(const Tensor& x) {
  TORCH_CHECK(x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16, "a kernel got ", x.scalar_type());
  return x.scalar_type() == at::kFloat ? "float" : "u16";
}

bool is_aligned(const Tensor& x) { return reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0; }

// As a kernel walks over it: dense and on whole vectors.
Tensor dense(const Tensor& x) {
  const Tensor y = x.contiguous();
  return is_aligned(y) ? y : y.clone();
}

// One row for each sample, which may lie within larger ones: a part of all modulations.
Tensor rows_of_samples(const Tensor& x) {
  const Tensor y = x.scalar_type() == at::kFloat ? x : x.to(at::kFloat);
  return y.stride(1) == 1 && y.stride(0) % 4 == 0 && is_aligned(y) ? y : y.clone(at::MemoryFormat::Contiguous);
}

Tensor floats(const Tensor& x) { return dense(x.scalar_type() == at::kFloat ? x : x.to(at::kFloat)); }

Tensor sum_of_parts(const Tensor& parts) { return parts.size(0) == 1 ? parts.squeeze(0) : parts.sum(0); }

void* at_start(const Tensor& x) { return const_cast<void*>(x.const_data_ptr()); }

// Packed queries, keys and values with what turns them.
struct Heads {
  int64_t rows, tokens, width;
  Tensor q, k, cos, sin;

  Heads(const Tensor& qkv, int64_t heads, const Tensor& q_, const Tensor& k_, const Tensor& cos_, const Tensor& sin_)
      : q(floats(q_)), k(floats(k_)), cos(floats(cos_)), sin(floats(sin_)) {
    TORCH_CHECK(qkv.dim() == 3 && heads > 0 && qkv.size(2) % (6 * heads) == 0, "tokens of ", qkv.sizes(),
                " do not hold three times ", heads, " heads of an even size");
    rows = qkv.size(0) * qkv.size(1), tokens = qkv.size(1), width = qkv.size(2) / (3 * heads);
    expect_vector("a query weight", q, width);
    expect_vector("a key weight", k, width);
    TORCH_CHECK(cos.dim() == 2 && cos.size(0) == tokens && cos.size(1) == width / 2, "cosines of ", cos.sizes(),
                " do not fit ", tokens, " tokens with heads of ", width);
    expect_equal("sines", cos, sin);
  }
};

std::string norm_name(const char* pass, bool is_rms, const Tensor& x) {
  return std::string("norm_") + pass + "<" + (is_rms ? "true" : "false") + ", " + name_of(x) + ">";
}
}  // namespace

extern "C" {
// The text of the kernels, before anything else here is called.
void rl_cuda_source(const char* text) { source() = text; }

// Whether kernels can be compiled for this machine.
int rl_has_cuda_kernels() { RL_CALL(libraries()) }

// Normalization and modulation. x [B,T,D]; shift and scale (or RMSNorm's factor) [B,D]. y is f32, or bf16 if `is_half`.
int rl_cuda_norm(int is_rms, Handle x_, Handle shift_, Handle scale_, double eps_, int is_half, Handle* y_,
                 Handle* mean_, Handle* rstd_) {
  RL_TRY(expect_rows("a shift", *x_, *shift_); expect_rows("a scale", *x_, *scale_); const Tensor x = floats(*x_);
         const Tensor shift = rows_of_samples(*shift_); const Tensor scale = rows_of_samples(*scale_);
         const int64_t B = x.size(0); const int64_t T = x.size(1); const int64_t D = x.size(2); const int64_t N = B * T;
         Tensor y = at::empty(x.sizes(), x.options().dtype(is_half ? at::kBFloat16 : at::kFloat));
         Tensor mean = at::empty({is_rms ? 0 : B, T, 1}, x.options()); Tensor rstd = at::empty({B, T, 1}, x.options());
         launch(norm_name("forward", is_rms, y), D, x, blocks_for(N), rows_per_block, at_start(x), at_start(shift),
                (long long)shift.stride(0), at_start(scale), (long long)scale.stride(0), at_start(y), at_start(mean),
                at_start(rstd), (long long)N, (int)T, (float)eps_);
         *y_ = own(y); *mean_ = own(mean); *rstd_ = own(rstd))
}

// Gradients of x, to which `stream` (or null) is added, shift and scale (or RMSNorm's factor); g is f32 or bf16.
int rl_cuda_norm_backward(int is_rms, Handle g_, Handle x_, Handle scale_, Handle mean_, Handle rstd_, Handle stream_,
                          Handle* gx_, Handle* gshift_, Handle* gscale_) {
  RL_TRY(expect_equal("a gradient", *x_, *g_); if (stream_) expect_equal("a gradient", *x_, *stream_);
         const Tensor stream = stream_ ? floats(*stream_) : Tensor(); const Tensor g = dense(*g_); const Tensor x = floats(*x_);
         const Tensor scale = rows_of_samples(*scale_);
         const int64_t B = x.size(0); const int64_t T = x.size(1); const int64_t D = x.size(2);
         const int64_t parts = parts_for(B, T); Tensor gx = at::empty(x.sizes(), x.options());
         Tensor gshift = at::empty({parts, B, D}, x.options()); Tensor gscale = at::empty({parts, B, D}, x.options());
         launch(norm_name("backward", is_rms, g), D, x, B * parts, warps_of_sums, at_start(g), at_start(x),
                at_start(scale), (long long)scale.stride(0), at_start(*mean_), at_start(*rstd_),
                stream_ ? at_start(stream) : nullptr, at_start(gx),
                at_start(gshift), at_start(gscale), (long long)B, (int)T, (int)parts);
         *gx_ = own(gx); *gshift_ = own(sum_of_parts(gshift)); *gscale_ = own(sum_of_parts(gscale)))
}

// x + gate * branch. x [B,T,D] f32, gate [B,D], branch [B,T,D] f32 or bf16.
int rl_cuda_gate(Handle x_, Handle gate_, Handle branch_, Handle* y_) {
  RL_TRY(expect_rows("a gate", *x_, *gate_); expect_equal("a branch", *x_, *branch_); const Tensor x = floats(*x_);
         const Tensor gate = rows_of_samples(*gate_); const Tensor branch = dense(*branch_);
         const int64_t T = x.size(1); const int64_t N = x.size(0) * T; Tensor y = at::empty(x.sizes(), x.options());
         launch(std::string("gate_forward<") + name_of(branch) + ">", x.size(2), x, blocks_for(N), rows_per_block,
                at_start(x), at_start(gate), (long long)gate.stride(0), at_start(branch), at_start(y), (long long)N,
                (int)T);
         *y_ = own(y))
}

// Gradients of the gate, and of the branch in its own type.
int rl_cuda_gate_backward(Handle g_, Handle gate_, Handle branch_, Handle* ggate_, Handle* gbranch_) {
  RL_TRY(expect_rows("a gate", *g_, *gate_); expect_equal("a branch", *g_, *branch_); const Tensor g = floats(*g_);
         const Tensor gate = rows_of_samples(*gate_); const Tensor branch = dense(*branch_);
         const int64_t B = g.size(0); const int64_t T = g.size(1); const int64_t D = g.size(2);
         const int64_t parts = parts_for(B, T); Tensor gbranch = at::empty(branch.sizes(), branch.options());
         Tensor ggate = at::empty({parts, B, D}, g.options());
         launch(std::string("gate_backward<") + name_of(branch) + ">", D, g, B * parts, warps_of_sums, at_start(g),
                at_start(gate), (long long)gate.stride(0), at_start(branch), at_start(gbranch), at_start(ggate),
                (long long)B, (int)T, (int)parts);
         *ggate_ = own(sum_of_parts(ggate)); *gbranch_ = own(gbranch))
}

// x [N,2m], y [N,m], f32 or bf16.
int rl_cuda_swiglu(Handle x_, Handle* y_) {
  RL_TRY(const Tensor x = dense(*x_); const int64_t N = x.size(0); const int64_t m = x.size(1) / 2;
         Tensor y = at::empty({N, m}, x.options());
         launch(std::string("swiglu_forward<") + name_of(x) + ">", m, x, blocks_for(N), rows_per_block, at_start(x),
                at_start(y), (long long)N);
         *y_ = own(y))
}

int rl_cuda_swiglu_backward(Handle g_, Handle x_, Handle* gx_) {
  RL_TRY(const Tensor x = dense(*x_); const Tensor g = dense(g_->to(x.scalar_type())); const int64_t N = x.size(0);
         const int64_t m = x.size(1) / 2; Tensor gx = at::empty(x.sizes(), x.options());
         launch(std::string("swiglu_backward<") + name_of(x) + ">", m, x, blocks_for(N), rows_per_block, at_start(g),
                at_start(x), at_start(gx), (long long)N);
         *gx_ = own(gx))
}

// Queries and keys of qkv [B,T,3*H*D] normalized and turned, values copied; q and k [D], cosines and sines [T,D/2].
int rl_cuda_rotary(Handle qkv_, int64_t heads, Handle q_, Handle k_, Handle cos_, Handle sin_, double eps_, Handle* y_,
                   Handle* rstd_) {
  RL_TRY(const Tensor x = dense(*qkv_); const Heads s(x, heads, *q_, *k_, *cos_, *sin_);
         Tensor y = at::empty(x.sizes(), x.options());
         Tensor rstd = at::empty({s.rows, 2, heads}, x.options().dtype(at::kFloat));
         launch(std::string("rotary_forward<") + name_of(x) + ">", s.width, x, blocks_for(s.rows * 3 * heads),
                rows_per_block, at_start(x), at_start(s.q), at_start(s.k), at_start(s.cos), at_start(s.sin), at_start(y),
                at_start(rstd), (long long)s.rows, (int)s.tokens, (int)heads, (float)eps_);
         *y_ = own(y); *rstd_ = own(rstd))
}

int rl_cuda_rotary_backward(Handle g_, Handle qkv_, int64_t heads, Handle q_, Handle k_, Handle cos_, Handle sin_,
                            Handle rstd_, Handle* gx_, Handle* gq_, Handle* gk_) {
  RL_TRY(const Tensor x = dense(*qkv_); const Heads s(x, heads, *q_, *k_, *cos_, *sin_);
         expect_equal("a gradient", x, *g_); const Tensor g = dense(g_->to(x.scalar_type()));
         const int64_t blocks = std::max<int64_t>(1, std::min<int64_t>(1024, s.rows / 8));
         Tensor gx = at::empty(x.sizes(), x.options());
         Tensor gweights = at::empty({blocks, 2, s.width}, x.options().dtype(at::kFloat));
         launch(std::string("rotary_backward<") + name_of(x) + ">", s.width, x, blocks, warps_of_sums, at_start(g),
                at_start(x), at_start(s.q), at_start(s.k), at_start(s.cos), at_start(s.sin), at_start(*rstd_),
                at_start(gx), at_start(gweights), (long long)s.rows, (int)s.tokens, (int)heads, (int)blocks);
         const Tensor sum = gweights.sum(0); *gx_ = own(gx); *gq_ = own(sum.select(0, 0).clone());
         *gk_ = own(sum.select(0, 1).clone()))
}

// Whether rows of this width have kernels; `is_kept` where a warp keeps a row.
int rl_has_width(int64_t width, int is_kept) {
  return width > 0 && width % 4 == 0 && width <= (is_kept ? widest_kept : widest);
}
}
