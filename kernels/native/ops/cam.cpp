// Grad-CAM's epilogue, from activations and gradients to a map or an overlay (fastsal/ops/cam.py).
#include <cmath>
#include <limits>

#include "_op.h"

namespace fastsal {
namespace {

constexpr double kEpsilon = 1e-8;
// As in fastsal_kernels/cam.py.
constexpr int64_t kLargestLayer = 4096, kOneLaunchElements = 2048 * 28 * 28, kSplitElements = 65536;

Tensor resized(const Tensor& source, int64_t dim, int64_t size) {
  const int64_t length = source.size(dim);
  if (length == size) return source;
  const double scale = static_cast<double>(length) / static_cast<double>(size);
  const Tensor positions = ((at::arange(size, source.options().dtype(at::kDouble)) + 0.5) * scale - 0.5)
                               .clamp(0, static_cast<double>(length - 1));
  const Tensor low = positions.floor(), from = low.to(at::kLong);
  std::vector<int64_t> shape(source.dim(), 1);
  shape[dim] = size;
  const Tensor first = source.index_select(dim, from);
  const Tensor second = source.index_select(dim, (from + 1).clamp_max(length - 1));
  return first + (positions - low).to(source.scalar_type()).view(shape) * (second - first);
}

// The map in the dtype of accumulation.
Tensor wide_map(const Tensor& activations, const Tensor& gradients, Sizes size, bool relu, bool normalize) {
  const auto dtype = accumulation(activations.scalar_type());
  std::vector<int64_t> spatial;
  for (int64_t axis = 2; axis < activations.dim(); ++axis) spatial.push_back(axis);
  Tensor result = (gradients.to(dtype).mean(spatial, true) * activations.to(dtype)).sum(1);
  if (relu) result = result.relu();
  for (size_t axis = 0; axis < size.size(); ++axis) result = resized(result, static_cast<int64_t>(axis) + 1, size[axis]);
  if (!normalize) return result;
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const Tensor flat = result.flatten(1), missing = flat.isnan();
  const Tensor low = flat.masked_fill(missing, infinity).amin(1, true);
  const Tensor high = flat.masked_fill(missing, -infinity).amax(1, true);
  return ((flat - low) / (high - low + kEpsilon)).clamp(0, 1).view_as(result);
}

void check_pair(const Tensor& activations, const Tensor& gradients, Sizes size) {
  TORCH_CHECK_VALUE(activations.dim() >= 3 && activations.dim() <= 5 && activations.is_floating_point() &&
                        activations.numel() > 0,
                    "activations: ", activations.dtype(), " of shape ", activations.sizes(),
                    " is not floating point of shape [B, C, *layer]");
  TORCH_CHECK_VALUE(gradients.sizes() == activations.sizes() && gradients.dtype() == activations.dtype() &&
                        gradients.device() == activations.device(),
                    "gradients: ", gradients.dtype(), " of shape ", gradients.sizes(), " on ", gradients.device(),
                    " is not that of the activations, ", activations.dtype(), " of ", activations.sizes(), " on ",
                    activations.device());
  TORCH_CHECK_VALUE(static_cast<int64_t>(size.size()) == activations.dim() - 2, "size: ", size,
                    " has not one for each of the layer's dimensions ", activations.sizes().slice(2));
  for (const int64_t extent : size) TORCH_CHECK_VALUE(extent >= 1, "size: ", size, " has one below 1");
}

bool fits(const Tensor& activations) {
  return activations.dim() <= 4 && c10::multiply_integers(activations.sizes().slice(2)) <= kLargestLayer;
}

// Strides over batch, channel and flattened position; of a copy where positions have no common stride.
std::pair<Tensor, std::array<int64_t, 3>> strided(const Tensor& given) {
  const bool copied = given.stride(2) != given.size(3) * given.stride(3) && given.size(2) > 1;
  const Tensor tensor = copied ? given.contiguous() : given;
  return {tensor, {tensor.stride(0), tensor.stride(1), tensor.size(3) > 1 ? tensor.stride(3) : tensor.stride(2)}};
}

bool epilogue(const Tensor& result, Tensor activations, Tensor gradients, std::vector<int64_t> size, bool relu,
              bool normalize, const MaybeTensor& image = {}, const MaybeTensor& colormap = {}, double alpha = 0.0) {
  if (activations.dim() == 3) {
    activations = activations.unsqueeze(2);
    gradients = gradients.unsqueeze(2);
    size.insert(size.begin(), 1);
  }
  const int64_t batch = activations.size(0), channels = activations.size(1);
  const int64_t height = activations.size(2), width = activations.size(3), positions = height * width;
  const auto [a, of_a] = strided(activations);
  const auto [g, of_g] = strided(gradients);
  const int64_t block_p = block_size(positions, positions * 2);
  const int64_t block_c = block_size(channels, std::max<int64_t>(1, 4096 / block_p));
  const int64_t block_y = block_size(size[0], 16), block_x = block_size(size[1], 64);
  const double scale_h = static_cast<double>(height) / static_cast<double>(size[0]);
  const double scale_w = static_cast<double>(width) / static_cast<double>(size[1]);
  const Tensor picture = image ? image->contiguous() : result, colours = colormap ? colormap->contiguous() : result;
  const Constant rectified{relu}, normalized{normalize}, overlaid{image.has_value()};
  if (channels * positions <= kOneLaunchElements)
    return fastsal::launch(result, "cam.fused_kernel", {batch, 1, 1}, 8, result, a, g, picture, colours, channels,
                           of_a[0], of_a[1], of_a[2], of_g[0], of_g[1], of_g[2], height, width, size[0], size[1],
                           scale_h, scale_w, alpha, rectified, normalized, overlaid, Constant{block_c},
                           Constant{block_p}, Constant{block_y}, Constant{block_x});
  int64_t splits = std::min(ceil_div(channels * positions, kSplitElements), ceil_div(channels, block_c));
  const int64_t share = ceil_div(ceil_div(channels, splits), block_c) * block_c;
  splits = ceil_div(channels, share);
  const Tensor parts = at::empty({batch, splits, block_p}, result.options().dtype(at::kFloat));
  return fastsal::launch(result, "cam.partial_kernel", {splits, batch, 1}, 8, parts, a, g, channels, share, positions,
                         of_a[0], of_a[1], of_a[2], of_g[0], of_g[1], of_g[2], Constant{block_c}, Constant{block_p}) &&
         fastsal::launch(result, "cam.finish_kernel", {ceil_div(size[0], block_y), ceil_div(size[1], block_x), batch},
                         8, result, parts, picture, colours, splits, height, width, size[0], size[1], scale_h, scale_w,
                         alpha, rectified, normalized, overlaid, Constant{block_p}, Constant{block_y},
                         Constant{block_x});
}

struct Map {
  static constexpr const char* schema =
      "cam_map(Tensor activations, Tensor gradients, int[] size, bool relu, bool normalize) -> Tensor";

  static void check(const Tensor& activations, const Tensor& gradients, Sizes size, bool, bool) {
    check_pair(activations, gradients, size);
  }

  static Tensor empty(const Tensor& activations, const Tensor&, Sizes size, bool, bool) {
    std::vector<int64_t> shape = size.vec();
    shape.insert(shape.begin(), activations.size(0));
    return at::empty(shape, activations.options());
  }

  static Tensor reference(const Tensor& activations, const Tensor& gradients, Sizes size, bool relu, bool normalize) {
    return wide_map(activations, gradients, size, relu, normalize).to(activations.scalar_type());
  }

  static bool supported(const Tensor& activations, const Tensor&, Sizes, bool, bool) { return fits(activations); }

  static bool launch(const Tensor& result, const Tensor& activations, const Tensor& gradients, Sizes size, bool relu,
                     bool normalize) {
    return epilogue(result, activations, gradients, size.vec(), relu, normalize);
  }
};

struct Overlay {
  static constexpr const char* schema =
      "cam_overlay(Tensor activations, Tensor gradients, Tensor image, Tensor colormap, float alpha) -> Tensor";

  static void check(const Tensor& activations, const Tensor& gradients, const Tensor& image, const Tensor& colormap,
                    double alpha) {
    TORCH_CHECK_VALUE(image.dim() == 4 && image.size(0) == activations.size(0) && image.size(3) == 3 &&
                          image.scalar_type() == at::kByte && image.device() == activations.device(),
                      "image: ", image.dtype(), " of shape ", image.sizes(), " is not uint8 of shape [B, H, W, 3] on ",
                      activations.device());
    TORCH_CHECK_VALUE(colormap.sizes() == Sizes({256, 3}) && colormap.scalar_type() == at::kByte &&
                          colormap.device() == activations.device(),
                      "colormap: ", colormap.dtype(), " of shape ", colormap.sizes(),
                      " is not uint8 of shape [256, 3] on ", activations.device());
    TORCH_CHECK_VALUE(0 <= alpha && alpha <= 1, "alpha: ", alpha, " is not in [0, 1]");
    check_pair(activations, gradients, image.sizes().slice(1, 2));
  }

  static Tensor empty(const Tensor&, const Tensor&, const Tensor& image, const Tensor&, double) {
    return at::empty(image.sizes(), image.options());
  }

  static Tensor reference(const Tensor& activations, const Tensor& gradients, const Tensor& image,
                          const Tensor& colormap, double alpha) {
    const Tensor map = wide_map(activations, gradients, image.sizes().slice(1, 2), true, true).to(at::kFloat);
    const Tensor missing = map.isnan(), level = (map.masked_fill(missing, 0) * 255 + 0.5).to(at::kLong);
    const Tensor base = image.to(at::kFloat);
    const Tensor colour = colormap.to(at::kFloat).index_select(0, level.flatten()).view(base.sizes());
    const Tensor blended = (base + alpha * (colour - base) + 0.5).clamp(0, 255).to(at::kByte);
    return at::where(missing.unsqueeze(-1), image, blended);
  }

  static bool supported(const Tensor& activations, const Tensor&, const Tensor&, const Tensor&, double) {
    return activations.dim() == 4 && fits(activations);
  }

  static bool launch(const Tensor& result, const Tensor& activations, const Tensor& gradients, const Tensor& image,
                     const Tensor& colormap, double alpha) {
    return epilogue(result, activations, gradients, image.sizes().slice(1, 2).vec(), true, true, image, colormap,
                    alpha);
  }
};

TORCH_LIBRARY_FRAGMENT(fastsal_native, library) {
  add<Map>(library);
  add<Overlay>(library);
}

}  // namespace
}  // namespace fastsal
