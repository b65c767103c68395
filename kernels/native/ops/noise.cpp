// SmoothGrad's noisy batch, and the running moments of its attributions (fastsal/ops/noise.py).
#include <ATen/Parallel.h>

#include <cmath>
#include <numbers>

#include "_op.h"
#include "_philox.h"

namespace fastsal {
namespace {

constexpr int64_t kSamples = 8;  // of one counter

// Standard normals [stop - start, elements], as fastsal/reference/noise.py numbers and makes them.
Tensor draw(int64_t seed, int64_t start, int64_t stop, int64_t elements, at::Device device) {
  Tensor result = at::empty({stop - start, elements}, at::TensorOptions(at::kFloat).device(at::kCPU));
  float* values = result.mutable_data_ptr<float>();
  at::parallel_for(0, elements, 4096, [&](int64_t low, int64_t high) {
    for (int64_t group = start / kSamples; group * kSamples < stop; ++group)
      for (int64_t element = low; element < high; ++element) {
        const auto words = philox4x64({static_cast<uint64_t>(seed), 0},
                                      {static_cast<uint64_t>(element), static_cast<uint64_t>(group), 0, 0});
        for (int64_t pair = 0; pair < kSamples / 2; ++pair) {
          const int64_t n = group * kSamples + 2 * pair - start;
          if (n + 1 < 0 || n >= stop - start) continue;
          const auto radius_bits = static_cast<float>(static_cast<int32_t>(words[pair]) >> 9);
          const auto angle_bits = static_cast<float>(static_cast<int32_t>(words[pair] >> 32) >> 9);
          const float radius = std::sqrt(-2.0f * std::log((radius_bits + 4194304.5f) * 0x1p-23f));
          const float angle = (angle_bits + 0.5f) * static_cast<float>(2 * std::numbers::pi * 0x1p-23);
          if (n >= 0) values[n * elements + element] = radius * std::cos(angle);
          if (n + 1 < stop - start) values[(n + 1) * elements + element] = radius * std::sin(angle);
        }
      }
  });
  return result.to(device);
}

struct Batch {
  static constexpr const char* schema =
      "noise_batch(Tensor input, Tensor? std, float deviation, int seed, SymInt start, SymInt stop) -> Tensor";

  static void check(const Tensor& input, const MaybeTensor& sigma, double, int64_t, int64_t start, int64_t stop) {
    TORCH_CHECK_VALUE(input.dim() >= 1 && input.is_floating_point(), "input: ", input.dtype(), " of shape ",
                      input.sizes(), " is not floating point of shape [B, ...]");
    TORCH_CHECK_VALUE(!sigma || (sigma->sizes() == input.sizes() && sigma->is_floating_point() &&
                               sigma->device() == input.device()),
                      "std: it is not floating point of the input's shape ", input.sizes(), ", on ", input.device());
    check_range(start, stop);
  }

  static Tensor empty(const Tensor& input, const MaybeTensor&, double, int64_t, int64_t start, int64_t stop) {
    return empty_rows(input, stop - start);
  }

  static Tensor reference(const Tensor& input, const MaybeTensor& sigma, double deviation, int64_t seed, int64_t start,
                          int64_t stop) {
    const auto dtype = accumulation(input.scalar_type());
    std::vector<int64_t> shape = input.sizes().vec();
    shape.insert(shape.begin(), stop - start);
    const Tensor normals = draw(seed, start, stop, input.numel(), input.device()).view(shape).to(dtype);
    const Tensor x = input.to(dtype);
    const Tensor result = sigma ? at::addcmul(x, sigma->to(dtype), normals) : normals * deviation + x;
    return result.to(input.scalar_type()).flatten(0, 1).contiguous(memory_format(input));
  }

  static bool launch(const Tensor& result, const Tensor& input, const MaybeTensor& sigma, double deviation, int64_t seed,
                     int64_t start, int64_t stop) {
    const int64_t size = input.numel();
    const Tensor x = dense_like(input, result), s = sigma ? dense_like(*sigma, result) : x;
    const bool interleaved = !result.is_contiguous();
    const int64_t channels = interleaved ? result.size(1) : 1;
    const int64_t block = setting("noise.batch", "bytes", size) / static_cast<int64_t>(result.element_size());
    return widest(size, [&](int64_t vector) {
      return fastsal::launch(
          result, "noise.batch_kernel", {ceil_div(size, block), ceil_div(stop, kSamples) - start / kSamples, 1},
          setting("noise.batch", "num_warps", size), result, x, s, seed, start, stop, size / vector,
          size / (input.size(0) * channels), channels, deviation, Constant{vector}, Constant{sigma.has_value()},
          Constant{interleaved}, Constant{block});
    });
  }
};

struct Fold {
  static constexpr const char* schema =
      "noise_fold(Tensor values, SymInt samples, SymInt start, Tensor? partial, bool second) -> Tensor";

  static std::vector<int64_t> shape(const Tensor& values, int64_t samples, bool second) {
    std::vector<int64_t> result = values.sizes().vec();
    result[0] /= samples;
    result.insert(result.begin(), second ? 2 : 1);
    return result;
  }

  static void check(const Tensor& values, int64_t samples, int64_t start, const MaybeTensor& partial, bool second) {
    TORCH_CHECK_VALUE(samples >= 1 && start >= 0, "samples, start: ", samples, ", ", start, " are below 1 and 0");
    TORCH_CHECK_VALUE(values.dim() >= 1 && values.is_floating_point() && values.size(0) % samples == 0, "values: ",
                      values.dtype(), " of shape ", values.sizes(), " is not floating point with ", samples,
                      " rows per example");
    const auto moments = shape(values, samples, second);
    TORCH_CHECK_VALUE(!partial || (partial->sizes() == Sizes(moments) && partial->device() == values.device() &&
                                   partial->scalar_type() == accumulation(values.scalar_type())),
                      "partial: it is not ", accumulation(values.scalar_type()), " of shape ", Sizes(moments), " on ",
                      values.device());
  }

  static Tensor empty(const Tensor& values, int64_t samples, int64_t, const MaybeTensor&, bool second) {
    return at::empty(shape(values, samples, second), values.options().dtype(accumulation(values.scalar_type())));
  }

  static Tensor reference(const Tensor& values, int64_t samples, int64_t start, const MaybeTensor& partial,
                          bool second) {
    const auto dtype = accumulation(values.scalar_type());
    const auto rows = values.unflatten(0, {samples, values.size(0) / samples}).unbind();
    Tensor mean = partial ? partial->select(0, 0) : at::zeros_like(rows[0], dtype);
    Tensor squares = partial && second ? partial->select(0, 1) : at::zeros_like(mean);
    for (size_t index = 0; index < rows.size(); ++index) {
      const Tensor value = rows[index].to(dtype), difference = value - mean;
      mean = at::add(mean, difference, 1.0 / static_cast<double>(start + static_cast<int64_t>(index) + 1));
      if (second) squares = at::addcmul(squares, difference, value - mean);
    }
    return second ? at::stack({mean, squares}) : at::stack({mean});
  }

  static bool launch(const Tensor& result, const Tensor& values, int64_t samples, int64_t start,
                     const MaybeTensor& partial, bool second) {
    const int64_t size = result.numel() / result.size(0), block = setting("noise.fold", "block", size);
    const Tensor v = values.contiguous(), p = partial ? partial->contiguous() : result;
    return widest(size, [&](int64_t vector) {
      return fastsal::launch(result, "noise.fold_kernel", {ceil_div(size, block), 1, 1},
                             setting("noise.fold", "num_warps", size), result, v, p, samples, start, size / vector,
                             Constant{vector}, Constant{second}, Constant{partial.has_value()},
                             Constant{setting("noise.fold", "unroll", size)}, Constant{block});
    });
  }
};

TORCH_LIBRARY_FRAGMENT(fastsal_native, library) {
  add<Batch>(library);
  add<Fold>(library);
}

}  // namespace
}  // namespace fastsal
