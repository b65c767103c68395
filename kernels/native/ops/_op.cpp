#include "_op.h"

#include <dlfcn.h>

#include <algorithm>
#include <bit>

namespace fastsal {

at::ScalarType accumulation(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

at::MemoryFormat memory_format(const Tensor& tensor) {
  if (!tensor.is_contiguous())
    for (const auto format : {at::MemoryFormat::ChannelsLast, at::MemoryFormat::ChannelsLast3d})
      if (tensor.dim() == (format == at::MemoryFormat::ChannelsLast ? 4 : 5) && tensor.is_contiguous(format))
        return format;
  return at::MemoryFormat::Contiguous;
}

Tensor empty_rows(const Tensor& input, int64_t count) {
  std::vector<int64_t> shape = input.sizes().vec();
  shape[0] *= count;
  return at::empty(shape, input.options().memory_format(memory_format(input)));
}

void check_baseline(const Tensor& input, const MaybeTensor& baseline) {
  if (!baseline) return;
  TORCH_CHECK_VALUE(baseline->sizes() == input.sizes(), "baseline: shape ", baseline->sizes(), " is not the input's ",
                    input.sizes());
  TORCH_CHECK_VALUE(baseline->dtype() == input.dtype() && baseline->device() == input.device(), "baseline: ",
                    baseline->dtype(), " on ", baseline->device(), " is not the input's ", input.dtype(), " on ",
                    input.device());
}

void check_range(int64_t start, int64_t stop) {
  TORCH_CHECK_VALUE(0 <= start && start <= stop, "start, stop: ", start, ", ", stop, " is not a range from 0 on");
}

Tensor dense_like(const Tensor& tensor, const Tensor& result) {
  if (result.is_contiguous()) return tensor.contiguous();
  return tensor.contiguous(result.dim() == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::ChannelsLast3d);
}

int64_t block_size(int64_t length, int64_t most) {
  return std::min<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(length, 1))), most);
}

int64_t vector_width(int64_t length) { return std::min<int64_t>(length & -length, 16); }

int64_t per_program(int64_t count, int64_t usual) { return std::max(usual, ceil_div(count, 65535)); }

Planes planes_of(const Tensor& result) {
  const std::vector<int64_t> shape = result.sizes().slice(1).vec();
  int64_t channels = 1, depth = 1, height = 1;
  const int64_t width = shape.back();
  if (shape.size() > 1) channels = shape[0];
  if (shape.size() > 2) height = shape[shape.size() - 2];
  if (shape.size() > 3) depth = shape[1];
  if (result.is_contiguous()) return {channels, depth, height, width, 1};
  return {channels, depth, height, width * channels, channels};
}

int64_t setting(const char* kernel, const char* name, int64_t elements) {
  const int64_t found = fastsal_setting(kernel, name, static_cast<uint64_t>(elements));
  TORCH_INTERNAL_ASSERT(found > 0, "no block ", name, " of ", kernel);
  return found;
}

fastsal_argument argument(const Tensor& tensor) {
  const auto dtype = [](at::ScalarType type) {
    switch (type) {
      case at::kFloat: return FASTSAL_F32;
      case at::kBFloat16: return FASTSAL_BF16;
      case at::kHalf: return FASTSAL_F16;
      case at::kByte: return FASTSAL_U8;
      case at::kInt: return FASTSAL_I32;
      case at::kLong: return FASTSAL_I64;
      default: TORCH_CHECK(false, "no kernel takes a tensor of ", type);
    }
  };
  fastsal_argument result{FASTSAL_POINTER, dtype(tensor.scalar_type()), {}};
  result.value.pointer = tensor.data_ptr();
  return result;
}

fastsal_argument argument(Constant constant) {
  fastsal_argument result{FASTSAL_CONSTANT, FASTSAL_I64, {}};
  result.value.integer = constant.value;
  return result;
}

namespace {

// PyTorch's own current stream. Only libtorch_cuda knows it, which a build without CUDA does not link.
void* stream_of(const Tensor& tensor) {
  if (!tensor.is_cuda()) return nullptr;
  using Get = int (*)(int32_t, void**);
  static const auto get = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return reinterpret_cast<Get>(library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr);
  }();
  void* stream = nullptr;
  TORCH_CHECK(get && get(tensor.get_device(), &stream) == 0, "this PyTorch does not tell its current CUDA stream");
  return stream;
}

}  // namespace

bool launch_on(const Tensor& result, const char* kernel, Grid grid, int64_t num_warps,
               const std::vector<fastsal_argument>& arguments) {
  const uint32_t sizes[3] = {static_cast<uint32_t>(grid[0]), static_cast<uint32_t>(grid[1]),
                             static_cast<uint32_t>(grid[2])};
  const auto run = [&] {
    return fastsal_launch(kernel, sizes, arguments.data(), arguments.size(), static_cast<int>(num_warps),
                          stream_of(result));
  };
  int status = run();
  if (status == FASTSAL_NO_CONTEXT) {
    // PyTorch enters the device's context on a thread at the first work that it does there.
    at::zeros({1}, result.options().dtype(at::kFloat));
    status = run();
  }
  if (status == FASTSAL_NO_CUBIN || status == FASTSAL_NO_KERNEL) {
    TORCH_WARN_ONCE(fastsal_error(), ": ops of fastsal_native run as several operations of PyTorch there");
    return false;
  }
  TORCH_CHECK(status == FASTSAL_OK, fastsal_error());
  return true;
}

bool for_kernels(const Tensor& lead) {
  const auto type = lead.scalar_type();
  return (type == at::kFloat || type == at::kBFloat16 || type == at::kHalf) && lead.numel() > 0 &&
         lead.numel() < (int64_t{1} << 31);
}

}  // namespace fastsal

TORCH_LIBRARY(fastsal_native, library) {}
