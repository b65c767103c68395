// Regions of a cached map with patches pasted in (fastsal/ops/patches.py).
#include "_op.h"

namespace fastsal {
namespace {

struct Gather {
  static constexpr const char* schema =
      "patches_gather(Tensor cached, Tensor starts, int[] size, Tensor? patch, Tensor? origins, float fill) -> Tensor";

  static void check(const Tensor& cached, const Tensor& starts, Sizes size, const MaybeTensor& patch,
                    const MaybeTensor& origins, double) {
    TORCH_CHECK_VALUE(cached.dim() == 4 && cached.size(0) == 1, "cached: shape ", cached.sizes(),
                      " is not [1, C, H, W]");
    TORCH_CHECK_VALUE(size.size() == 2 && size[0] >= 1 && size[1] >= 1, "size: ", size, " is not a height and a width");
    TORCH_CHECK_VALUE(patch.has_value() == origins.has_value(), "origins: needed with patch, and only with it");
    const int64_t count = starts.dim() == 2 ? starts.size(0) : -1;
    for (const auto& [name, tensor] : {std::pair{"starts", MaybeTensor(starts)}, std::pair{"origins", origins}})
      TORCH_CHECK_VALUE(!tensor || (tensor->sizes() == Sizes({count, 2}) && tensor->scalar_type() == at::kLong &&
                                    tensor->device() == cached.device()),
                        name, ": it is not int64 of shape [B, 2] on ", cached.device());
    TORCH_CHECK_VALUE(!patch || (patch->dim() == 4 && patch->size(0) == count && patch->size(1) == cached.size(1) &&
                                 patch->dtype() == cached.dtype() && patch->device() == cached.device()),
                      "patch: it is not ", cached.dtype(), " of shape [", count, ", ", cached.size(1), ", h, w] on ",
                      cached.device());
  }

  static Tensor empty(const Tensor& cached, const Tensor& starts, Sizes size, const MaybeTensor&, const MaybeTensor&,
                      double) {
    return at::empty({starts.size(0), size[0], size[1], cached.size(1)}, cached.options()).permute({0, 3, 1, 2});
  }

  static Tensor reference(const Tensor& cached, const Tensor& starts, Sizes size, const MaybeTensor& patch,
                          const MaybeTensor& origins, double fill) {
    const int64_t channels = cached.size(1), height = cached.size(2), width = cached.size(3), count = starts.size(0);
    const auto column = [](const Tensor& pairs, int64_t which) { return pairs.select(1, which).unsqueeze(1); };
    const auto both = [](const Tensor& rows, const Tensor& columns) {
      return rows.unsqueeze(2) & columns.unsqueeze(1);
    };
    const Tensor y = column(starts, 0) + at::arange(size[0], starts.options());
    const Tensor x = column(starts, 1) + at::arange(size[1], starts.options());
    const Tensor on_map = both((y >= 0) & (y < height), (x >= 0) & (x < width));
    Tensor index = y.unsqueeze(2) * width + x.unsqueeze(1);
    index = at::where(on_map, index, at::full({}, height * width, index.options()));
    std::vector<Tensor> table = {cached.permute({0, 2, 3, 1}).reshape({-1, channels}),
                                 at::full({1, channels}, fill, cached.options())};
    if (patch) {
      const int64_t tall = patch->size(2), wide = patch->size(3);
      const Tensor down = y - column(*origins, 0), right = x - column(*origins, 1);
      const Tensor inside = both((down >= 0) & (down < tall), (right >= 0) & (right < wide));
      const Tensor first = at::arange(count, starts.options()).unsqueeze(1) * tall;
      const Tensor own = (first + down).unsqueeze(2) * wide + right.unsqueeze(1);
      index = at::where(inside & on_map, own + height * width + 1, index);
      table.push_back(patch->permute({0, 2, 3, 1}).reshape({-1, channels}));
    }
    const Tensor found = at::cat(table).index_select(0, index.reshape({-1}));
    return found.view({count, size[0], size[1], channels}).permute({0, 3, 1, 2});
  }

  static bool launch(const Tensor& result, const Tensor& cached, const Tensor& starts, Sizes size,
                     const MaybeTensor& patch, const MaybeTensor& origins, double fill) {
    const int64_t channels = cached.size(1), total = starts.size(0) * size[0] * size[1];
    const int64_t block_c = block_size(channels, 256), block_r = std::max<int64_t>(1, 2048 / block_c);
    const Tensor map = cached.contiguous(at::MemoryFormat::ChannelsLast), from = starts.contiguous();
    const Tensor altered = patch ? patch->contiguous(at::MemoryFormat::ChannelsLast) : cached;
    const Tensor corners = origins ? origins->contiguous() : from;
    return widest(channels, [&](int64_t vector) {
      return fastsal::launch(result, "patches.gather_kernel", {ceil_div(total, block_r), ceil_div(channels, block_c), 1},
                             4, result, map, altered, from, corners, cached.size(2), cached.size(3),
                             patch ? patch->size(2) : 1, patch ? patch->size(3) : 1, total, size[0], size[1],
                             channels / vector, fill, Constant{vector}, Constant{patch.has_value()}, Constant{block_r},
                             Constant{block_c});
    });
  }
};

TORCH_LIBRARY_FRAGMENT(fastsal_native, library) { add<Gather>(library); }

}  // namespace
}  // namespace fastsal
