// Occlusion's windows: the batch with one replaced per row, and the average of what they change (fastsal/ops/windows.py).
#include "_op.h"

namespace fastsal {
namespace {

std::vector<int64_t> counts_of(Sizes shape, Sizes window, Sizes stride) {
  std::vector<int64_t> result;
  for (size_t i = 0; i < shape.size(); ++i) result.push_back(1 + ceil_div(shape[i] - window[i], stride[i]));
  return result;
}

// Channel, depth, height, width of one to four dimensions beside the batch.
std::vector<int64_t> as_four(Sizes sizes) {
  if (sizes.size() == 1) return {1, 1, 1, sizes[0]};
  std::vector<int64_t> result(4 - sizes.size(), 1);
  result.insert(result.begin(), sizes[0]);
  result.insert(result.end(), sizes.begin() + 1, sizes.end());
  return result;
}

void check_windows(Sizes shape, Sizes window, Sizes stride) {
  TORCH_CHECK_VALUE(!shape.empty() && window.size() == shape.size() && stride.size() == shape.size(), "window, stride: ",
                    window, " and ", stride, " have not one size for each of ", shape);
  for (size_t i = 0; i < shape.size(); ++i)
    TORCH_CHECK_VALUE(1 <= window[i] && window[i] <= shape[i] && stride[i] >= 1, "window, stride: ", window, " and ",
                      stride, " do not fit ", shape);
}

Tensor along(const Tensor& values, size_t trailing) {
  std::vector<int64_t> shape(trailing + 1, 1);
  shape[0] = -1;
  return values.view(shape);
}

struct Batch {
  static constexpr const char* schema =
      "windows_batch(Tensor input, Tensor? baseline, float fill, SymInt start, SymInt stop, int[] window, "
      "int[] stride) -> Tensor";

  static void check(const Tensor& input, const MaybeTensor& baseline, double, int64_t start, int64_t stop, Sizes window,
                    Sizes stride) {
    TORCH_CHECK_VALUE(input.dim() >= 2, "input: shape ", input.sizes(), " is not [B, ...]");
    const Sizes shape = input.sizes().slice(1);
    check_windows(shape, window, stride);
    check_range(start, stop);
    const auto counts = counts_of(shape, window, stride);
    TORCH_CHECK_VALUE(stop <= c10::multiply_integers(counts), "stop: ", stop, " is above the ",
                      c10::multiply_integers(counts), " windows");
    check_baseline(input, baseline);
  }

  static Tensor empty(const Tensor& input, const MaybeTensor&, double, int64_t start, int64_t stop, Sizes, Sizes) {
    return empty_rows(input, stop - start);
  }

  static Tensor reference(const Tensor& input, const MaybeTensor& baseline, double fill, int64_t start, int64_t stop,
                          Sizes window, Sizes stride) {
    const Sizes shape = input.sizes().slice(1);
    const auto options = input.options().dtype(at::kLong);
    const auto counts = counts_of(shape, window, stride);
    const Tensor index = at::arange(start, stop, options);
    Tensor inside = along(at::ones_like(index, at::kBool), shape.size());
    int64_t below = c10::multiply_integers(counts);
    for (size_t axis = 0; axis < shape.size(); ++axis) {
      below /= counts[axis];
      const Tensor first = along(index.floor_divide(below).remainder(counts[axis]) * stride[axis], shape.size());
      const Tensor position = along(at::arange(shape[axis], options), shape.size() - 1 - axis);
      inside = inside & (position >= first) & (position < first + window[axis]);
    }
    const Tensor replacement = baseline ? *baseline : at::full({}, fill, input.options());
    const Tensor result = at::where(inside.unsqueeze(1), replacement, input).flatten(0, 1);
    return result.contiguous(memory_format(input));
  }

  static bool supported(const Tensor& input, const MaybeTensor&, double, int64_t, int64_t, Sizes, Sizes) {
    return input.dim() <= 5;
  }

  static bool launch(const Tensor& result, const Tensor& input, const MaybeTensor& baseline, double fill, int64_t start,
                     int64_t stop, Sizes window, Sizes stride) {
    const auto shape = as_four(input.sizes().slice(1)), widths = as_four(window), steps = as_four(stride);
    const auto counts = counts_of(shape, widths, steps);
    const Planes layout = planes_of(result);
    const int64_t rows = input.numel() / layout.length;
    const Tensor x = dense_like(input, result), b = baseline ? dense_like(*baseline, result) : x;
    const char* kernel = baseline || layout.interleaved != 1 ? "windows.batch heavy" : "windows.batch";
    const auto tuned = [&](const char* name) { return setting(kernel, name, input.numel()); };
    const int64_t block_r = block_size(rows, tuned("rows"));
    const int64_t block_q = block_size(layout.length, std::max<int64_t>(256, tuned("tile") / block_r));
    const int64_t taken = per_program(stop - start, tuned("items"));
    return widest(layout.length, [&](int64_t vector) {
      return fastsal::launch(
          result, "windows.batch_kernel",
          {ceil_div(rows, block_r), ceil_div(layout.length, block_q), ceil_div(stop - start, taken)},
          tuned("num_warps"), result, x, b, start, stop, rows, layout.channels, layout.depth, layout.height,
          layout.length / vector, fill, counts[1], counts[2], counts[3], widths[0], widths[1], widths[2], widths[3],
          steps[0], steps[1], steps[2], steps[3], Constant{layout.interleaved}, Constant{vector},
          Constant{baseline ? 2 : 1}, Constant{block_r}, Constant{block_q}, Constant{taken});
    });
  }
};

struct Fold {
  static constexpr const char* schema =
      "windows_fold(Tensor differences, int[] shape, int[] window, int[] stride, bool average) -> Tensor";

  static void check(const Tensor& differences, Sizes shape, Sizes window, Sizes stride, bool) {
    check_windows(shape, window, stride);
    const int64_t count = c10::multiply_integers(counts_of(shape, window, stride));
    TORCH_CHECK_VALUE(differences.dim() == 2 && differences.is_floating_point() && differences.size(0) == count,
                      "differences: ", differences.dtype(), " of shape ", differences.sizes(),
                      " is not floating point of shape [", count, ", K]");
  }

  static Tensor empty(const Tensor& differences, Sizes shape, Sizes, Sizes, bool) {
    std::vector<int64_t> sizes = shape.vec();
    sizes.insert(sizes.begin(), differences.size(1));
    return at::empty(sizes, differences.options().dtype(accumulation(differences.scalar_type())));
  }

  static Tensor reference(const Tensor& differences, Sizes shape, Sizes window, Sizes stride, bool average) {
    const auto options = differences.options().dtype(at::kLong);
    const auto counts = counts_of(shape, window, stride);
    std::vector<int64_t> sizes = counts;
    sizes.insert(sizes.begin(), differences.size(1));
    Tensor result = differences.to(accumulation(differences.scalar_type())).t().reshape(sizes);
    Tensor covering = at::ones({}, options);
    for (size_t axis = 0; axis < shape.size(); ++axis) {
      const int64_t width = window[axis], step = stride[axis], last = counts[axis] - 1;
      const Tensor position = at::arange(shape[axis], options);
      const Tensor low = ((position - width).floor_divide(step) + 1).clamp_min(0);
      const Tensor high = position.floor_divide(step).clamp_max(last);
      Tensor total = at::zeros({}, result.options());
      for (int64_t ahead = 0; ahead < std::min(ceil_div(width, step), counts[axis]); ++ahead) {
        const Tensor covers = along(low + ahead <= high, shape.size() - 1 - axis);
        const Tensor chosen = result.index_select(static_cast<int64_t>(axis) + 1, (low + ahead).clamp_max(last));
        total = total + at::where(covers, chosen, at::zeros({}, chosen.options()));
      }
      result = total;
      covering = covering.unsqueeze(-1) * (high - low + 1).clamp_min(0);
    }
    return average ? result / covering.clamp_min(1) : result;
  }

  static bool supported(const Tensor&, Sizes shape, Sizes, Sizes, bool) { return shape.size() <= 4; }

  static bool launch(const Tensor& result, const Tensor& differences, Sizes shape, Sizes window, Sizes stride,
                     bool average) {
    const auto sizes = as_four(shape), widths = as_four(window), steps = as_four(stride);
    const auto counts = counts_of(sizes, widths, steps);
    const int64_t rows = sizes[0] * sizes[1] * sizes[2];
    const int64_t block_r = block_size(rows, 16), block_w = block_size(sizes[3], 32), outputs = result.size(0);
    return fastsal::launch(result, "windows.fold_kernel", {ceil_div(rows, block_r), ceil_div(sizes[3], block_w), outputs},
                           block_r * block_w >= 128 ? 4 : 1, result, differences.contiguous(), outputs, sizes[0],
                           sizes[1], sizes[2], sizes[3], counts[0], counts[1], counts[2], counts[3], widths[0],
                           widths[1], widths[2], widths[3], steps[0], steps[1], steps[2], steps[3], Constant{average},
                           Constant{block_r}, Constant{block_w});
  }
};

TORCH_LIBRARY_FRAGMENT(fastsal_native, library) {
  add<Batch>(library);
  add<Fold>(library);
}

}  // namespace
}  // namespace fastsal
