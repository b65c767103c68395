// Deletion's and insertion's batch, straight from a ranking (fastsal/ops/ranks.py).
#include "_op.h"

namespace fastsal {
namespace {

struct Batch {
  static constexpr const char* schema =
      "ranks_batch(Tensor input, Tensor other, Tensor ranks, Tensor counts) -> Tensor";

  static void check(const Tensor& input, const Tensor& other, const Tensor& ranks, const Tensor& counts) {
    TORCH_CHECK_VALUE(input.dim() >= 2, "input: shape ", input.sizes(), " is not [B, C, ...]");
    TORCH_CHECK_VALUE(other.sizes() == input.sizes() && other.dtype() == input.dtype(), "other: ", other.dtype(),
                      " of shape ", other.sizes(), " is not the input's ", input.dtype(), " of shape ", input.sizes());
    std::vector<int64_t> shape = input.sizes().vec();
    shape.erase(shape.begin() + 1);
    TORCH_CHECK_VALUE(ranks.sizes() == Sizes(shape) && ranks.scalar_type() == at::kLong, "ranks: ", ranks.dtype(),
                      " of shape ", ranks.sizes(), " is not int64 of shape ", Sizes(shape));
    TORCH_CHECK_VALUE(counts.dim() == 1 && counts.size(0) >= 1 && counts.scalar_type() == at::kLong, "counts: ",
                      counts.dtype(), " of shape ", counts.sizes(), " is not int64 of shape [n], n >= 1");
    for (const Tensor& tensor : {other, ranks, counts})
      TORCH_CHECK_VALUE(tensor.device() == input.device(), "other, ranks, counts: one is on ", tensor.device(),
                        ", the input on ", input.device());
  }

  static Tensor empty(const Tensor& input, const Tensor&, const Tensor&, const Tensor& counts) {
    return empty_rows(input, counts.size(0));
  }

  static Tensor reference(const Tensor& input, const Tensor& other, const Tensor& ranks, const Tensor& counts) {
    std::vector<int64_t> along(ranks.dim() + 2, 1);
    along[0] = -1;
    const Tensor exchanged = ranks.unsqueeze(1) < counts.view(along);
    return at::where(exchanged, other, input).flatten(0, 1).contiguous(memory_format(input));
  }

  static bool launch(const Tensor& result, const Tensor& input, const Tensor& other, const Tensor& ranks,
                     const Tensor& counts) {
    const int64_t size = input.numel(), steps = counts.size(0), example = size / input.size(0), block = 1024;
    const int64_t taken = per_program(steps, 16);
    const Tensor x = dense_like(input, result), y = dense_like(other, result);
    const Tensor r = ranks.contiguous(), c = counts.contiguous();
    return widest(example, [&](int64_t vector) {
      return fastsal::launch(result, "ranks.batch_kernel", {ceil_div(size, block), ceil_div(steps, taken), 1}, 4,
                             result, x, y, r, c, steps, size / vector, example / vector, r.numel() / input.size(0),
                             Constant{result.is_contiguous() ? 1 : input.size(1)}, Constant{vector}, Constant{block},
                             Constant{taken});
    });
  }
};

TORCH_LIBRARY_FRAGMENT(fastsal_native, library) { add<Batch>(library); }

}  // namespace
}  // namespace fastsal
