// The straight path of Integrated Gradients, and the weighted gradient sum (fastsal/ops/path.py).
#include "_op.h"

namespace fastsal {
namespace {

struct Batch {
  static constexpr const char* schema =
      "path_batch(Tensor input, Tensor alphas, Tensor? baseline, float fill) -> Tensor";

  static void check(const Tensor& input, const Tensor& alphas, const MaybeTensor& baseline, double) {
    TORCH_CHECK_VALUE(input.dim() >= 1 && input.is_floating_point(), "input: ", input.dtype(), " of shape ",
                      input.sizes(), " is not floating point of shape [B, ...]");
    TORCH_CHECK_VALUE(alphas.dim() == 1 && alphas.size(0) >= 1 && alphas.is_floating_point() &&
                          alphas.device() == input.device(),
                      "alphas: ", alphas.dtype(), " of shape ", alphas.sizes(), " on ", alphas.device(),
                      " is not floating point of shape [n] on ", input.device());
    check_baseline(input, baseline);
  }

  static Tensor empty(const Tensor& input, const Tensor& alphas, const MaybeTensor&, double) {
    return empty_rows(input, alphas.size(0));
  }

  static Tensor reference(const Tensor& input, const Tensor& alphas, const MaybeTensor& baseline, double fill) {
    const auto dtype = accumulation(input.scalar_type());
    const Tensor x = input.to(dtype);
    const Tensor b = baseline ? baseline->to(dtype) : at::full_like(x, fill);
    std::vector<int64_t> along(input.dim() + 1, 1);
    along[0] = -1;
    Tensor result = at::lerp(b.unsqueeze(0), x.unsqueeze(0), alphas.to(dtype).view(along)).flatten(0, 1);
    return result.to(input.scalar_type()).contiguous(memory_format(input));
  }

  static bool launch(const Tensor& result, const Tensor& input, const Tensor& alphas, const MaybeTensor& baseline,
                     double fill) {
    const int64_t size = input.numel(), count = alphas.size(0);
    const Tensor x = dense_like(input, result), b = baseline ? dense_like(*baseline, result) : x;
    const Tensor points = alphas.contiguous();
    const int64_t steps = per_program(count, setting("path.batch", "items", size));
    const int64_t block = setting("path.batch", "block", size);
    return widest(size, [&](int64_t vector) {
      return fastsal::launch(result, "path.batch_kernel", {ceil_div(size, block), ceil_div(count, steps), 1},
                             setting("path.batch", "num_warps", size), result, x, b, points, count, size / vector, fill,
                             Constant{vector}, Constant{baseline ? 2 : 1}, Constant{block}, Constant{steps});
    });
  }
};

struct Fold {
  static constexpr const char* schema =
      "path_fold(Tensor gradients, Tensor weights, Tensor? input, Tensor? baseline, float fill, Tensor? partial) -> "
      "Tensor";

  static std::vector<int64_t> shape(const Tensor& gradients, const Tensor& weights) {
    std::vector<int64_t> result = gradients.sizes().vec();
    result[0] /= weights.size(0);
    return result;
  }

  static void check(const Tensor& gradients, const Tensor& weights, const MaybeTensor& input,
                    const MaybeTensor& baseline, double, const MaybeTensor& partial) {
    TORCH_CHECK_VALUE(weights.dim() == 1 && weights.size(0) >= 1 && weights.is_floating_point() &&
                          weights.device() == gradients.device(),
                      "weights: ", weights.dtype(), " of shape ", weights.sizes(), " on ", weights.device(),
                      " is not floating point of shape [n] on ", gradients.device());
    TORCH_CHECK_VALUE(gradients.dim() >= 1 && gradients.is_floating_point() &&
                          gradients.size(0) % weights.size(0) == 0,
                      "gradients: ", gradients.dtype(), " of shape ", gradients.sizes(), " is not floating point with ",
                      weights.size(0), " rows (one per weight) per example");
    for (const auto& [name, tensor] : {std::pair{"input", &input}, std::pair{"partial", &partial}})
      TORCH_CHECK_VALUE(!*tensor || ((*tensor)->sizes() == Sizes(shape(gradients, weights)) &&
                                     (*tensor)->device() == gradients.device()),
                        name, ": it is not of the gradients' shape of one step, ", Sizes(shape(gradients, weights)),
                        ", on their device");
    TORCH_CHECK_VALUE(!partial || partial->scalar_type() == accumulation(gradients.scalar_type()), "partial: it is ",
                      "not of ", accumulation(gradients.scalar_type()));
    TORCH_CHECK_VALUE(input || !baseline, "baseline: it needs an input");
    if (input) check_baseline(*input, baseline);
  }

  static Tensor empty(const Tensor& gradients, const Tensor& weights, const MaybeTensor& input, const MaybeTensor&,
                      double, const MaybeTensor&) {
    const auto dtype = input ? input->scalar_type() : accumulation(gradients.scalar_type());
    return at::empty(shape(gradients, weights),
                     gradients.options().dtype(dtype).memory_format(memory_format(input ? *input : gradients)));
  }

  static Tensor reference(const Tensor& gradients, const Tensor& weights, const MaybeTensor& input,
                          const MaybeTensor& baseline, double fill, const MaybeTensor& partial) {
    const auto dtype = accumulation(gradients.scalar_type());
    const auto steps = gradients.unflatten(0, {weights.size(0), gradients.size(0) / weights.size(0)}).unbind();
    const auto factors = weights.to(dtype).unbind();
    Tensor total = partial ? *partial : at::zeros(shape(gradients, weights), gradients.options().dtype(dtype));
    for (size_t k = 0; k < steps.size(); ++k) total = at::addcmul(total, factors[k], steps[k].to(dtype));
    if (!input) return total.contiguous(memory_format(gradients));
    const Tensor x = input->to(dtype);
    const Tensor difference = baseline ? x - baseline->to(dtype) : x - fill;
    return (difference * total).to(input->scalar_type()).contiguous(memory_format(*input));
  }

  static bool launch(const Tensor& result, const Tensor& gradients, const Tensor& weights, const MaybeTensor& input,
                     const MaybeTensor& baseline, double fill, const MaybeTensor& partial) {
    const int64_t size = result.numel(), block = setting("path.fold", "block", size);
    const auto dense = [&](const MaybeTensor& tensor) { return tensor ? dense_like(*tensor, result) : result; };
    const Tensor g = dense_like(gradients, result), w = weights.contiguous();
    const Tensor x = dense(input), b = dense(baseline), p = dense(partial);
    return widest(size, [&](int64_t vector) {
      return fastsal::launch(result, "path.fold_kernel", {ceil_div(size, block), 1, 1},
                             setting("path.fold", "num_warps", size), result, g, w, x, b, p, weights.size(0),
                             size / vector, fill, Constant{vector}, Constant{input.has_value()},
                             Constant{baseline ? 2 : 1}, Constant{partial.has_value()},
                             Constant{setting("path.fold", "unroll", size)}, Constant{block});
    });
  }
};

TORCH_LIBRARY_FRAGMENT(fastsal_native, library) {
  add<Batch>(library);
  add<Fold>(library);
}

}  // namespace
}  // namespace fastsal
