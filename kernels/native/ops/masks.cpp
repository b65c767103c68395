// RISE's masked batch and its fold (fastsal/ops/masks.py).
#include <cmath>

#include "_op.h"
#include "_philox.h"

namespace fastsal {
namespace {

constexpr double kWord = 4294967296.0;

// One to three spatial sizes as depth, height and width.
std::vector<int64_t> as_volume(Sizes sizes) {
  std::vector<int64_t> result(3 - sizes.size(), 1);
  result.insert(result.end(), sizes.begin(), sizes.end());
  return result;
}

// A mask's geometry in depth, height and width.
struct Geometry {
  std::vector<int64_t> size, cells, cell;
  int64_t buckets, elements;

  Geometry(Sizes given, Sizes grid) : size(as_volume(given)), cells(as_volume(grid)) {
    for (int axis = 0; axis < 3; ++axis) cell.push_back(ceil_div(size[axis], cells[axis]));
    buckets = cell[0] * cell[1] * cell[2];
    elements = cells[0] * cells[1] * cells[2];
  }
};

void check_design(Sizes size, Sizes grid, double probability, const MaybeTensor& words, const MaybeTensor& offsets,
                  int64_t count, at::Device device) {
  TORCH_CHECK_VALUE(1 <= size.size() && size.size() <= 3 && grid.size() == size.size(), "grid: ", grid,
                    " has not one number of cells for each of one to three dimensions ", size);
  for (const int64_t cells : grid) TORCH_CHECK_VALUE(1 <= cells && cells <= 31, "grid: ", grid, " is not of 1 to 31");
  TORCH_CHECK_VALUE(0 <= probability && probability <= 1, "probability: ", probability, " is not in [0, 1]");
  TORCH_CHECK_VALUE(words.has_value() == offsets.has_value(), "offsets: needed with words, and only with them");
  if (!words) return;
  const Geometry of(size, grid);
  const int64_t rows = of.cells[0] * of.cells[1];
  TORCH_CHECK_VALUE(words->sizes() == Sizes({count, rows}) && words->scalar_type() == at::kInt &&
                        words->device() == device,
                    "words: it is not int32 of shape [", count, ", ", rows, "] on ", device);
  TORCH_CHECK_VALUE(offsets->sizes() == Sizes({count, 3}) && offsets->scalar_type() == at::kInt &&
                        offsets->device() == device,
                    "offsets: it is not int32 of shape [", count, ", 3] on ", device);
}

// Grids [count, *cells] (bool) and offsets [count, 3] (int64): drawn, or unpacked from a design.
std::pair<Tensor, Tensor> drawn(const Geometry& of, int64_t seed, int64_t start, int64_t count, double probability,
                                const MaybeTensor& words, const MaybeTensor& offsets, at::Device device) {
  const std::vector<int64_t> shape = {count, of.cells[0], of.cells[1], of.cells[2]};
  if (words) {
    const Tensor column = at::arange(of.cells[2], words->options());
    const Tensor bits = at::bitwise_and(at::bitwise_right_shift(words->unsqueeze(2), column), 1);
    return {bits.to(at::kBool).view(shape), offsets->to(at::kLong)};
  }
  const auto options = at::TensorOptions(at::kCPU);
  Tensor grids = at::empty(shape, options.dtype(at::kBool)), places = at::empty({count, 3}, options.dtype(at::kLong));
  bool* on = grids.mutable_data_ptr<bool>();
  int64_t* place = places.mutable_data_ptr<int64_t>();
  const auto threshold = static_cast<uint64_t>(std::llrint(probability * kWord));
  const std::array<uint32_t, 2> key = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int64_t n = 0; n < count; ++n) {
    const auto low = static_cast<uint32_t>(start + n), high = static_cast<uint32_t>((start + n) >> 32);
    for (int64_t element = 0; element < of.elements; ++element) {
      const auto lanes = philox4x32(key, {low, high, static_cast<uint32_t>(element / 4), 0});
      on[n * of.elements + element] = lanes[element % 4] < threshold;
    }
    const auto lanes = philox4x32(key, {low, high, 0, 1});
    for (int axis = 0; axis < 3; ++axis)
      place[3 * n + axis] = static_cast<int64_t>(lanes[axis] * static_cast<uint64_t>(of.cell[axis]) >> 32);
  }
  return {grids.to(device), places.to(device)};
}

// Matrices [offsets, size, cells] that resize one dimension of a grid and crop it at each offset.
Tensor interpolation(const Tensor& offset, int64_t size, int64_t cells, int64_t cell, bool mirror) {
  const auto options = offset.options().dtype(at::kDouble);
  const double last = static_cast<double>(cells - 1);
  const double scale = static_cast<double>(cells) / static_cast<double>((cells + 1) * cell);
  Tensor position = (offset.unsqueeze(1) + at::arange(size, options) + 0.5) * scale - 0.5;
  if (mirror) position = last - (last - position.abs()).abs();
  position = position.clamp(0, last);
  return (1 - (position.unsqueeze(-1) - at::arange(cells, options)).abs()).clamp_min(0);
}

// What the kernels read: grid rows as words, and the offsets. Empty where no kernel draws them.
std::optional<std::pair<Tensor, Tensor>> words_of(const Tensor& result, const Geometry& of, int64_t seed, int64_t start,
                                                  int64_t count, double probability, const MaybeTensor& words,
                                                  const MaybeTensor& offsets) {
  if (words) return std::pair{words->contiguous(), offsets->contiguous()};
  const int64_t rows = of.cells[0] * of.cells[1], block = 32;
  const auto options = result.options().dtype(at::kInt).memory_format(at::MemoryFormat::Contiguous);
  std::pair<Tensor, Tensor> found{at::empty({count, rows}, options), at::empty({count, 3}, options)};
  const bool done = fastsal::launch(result, "masks.grids_kernel", {ceil_div(count, block), 1, 1}, 1, found.first,
                                    found.second, seed, start, count, std::llrint(probability * kWord), rows,
                                    of.cells[2], of.cell[0], of.cell[1], of.cell[2], Constant{block},
                                    Constant{std::max<int64_t>(block_size(of.cells[2], 32), 4)});
  return done ? std::optional(found) : std::nullopt;
}

struct Batch {
  static constexpr const char* schema =
      "masks_batch(Tensor input, Tensor? baseline, float fill, int seed, SymInt start, SymInt stop, int[] grid, "
      "float probability, bool mirror, Tensor? words, Tensor? offsets) -> Tensor";

  static void check(const Tensor& input, const MaybeTensor& baseline, double, int64_t, int64_t start, int64_t stop,
                    Sizes grid, double probability, bool, const MaybeTensor& words, const MaybeTensor& offsets) {
    TORCH_CHECK_VALUE(input.dim() >= 3 && input.is_floating_point(), "input: ", input.dtype(), " of shape ",
                      input.sizes(), " is not floating point of shape [B, C, *spatial]");
    check_range(start, stop);
    check_baseline(input, baseline);
    check_design(input.sizes().slice(2), grid, probability, words, offsets, stop - start, input.device());
  }

  static Tensor empty(const Tensor& input, const MaybeTensor&, double, int64_t, int64_t start, int64_t stop, Sizes,
                      double, bool, const MaybeTensor&, const MaybeTensor&) {
    return empty_rows(input, stop - start);
  }

  static Tensor reference(const Tensor& input, const MaybeTensor& baseline, double fill, int64_t seed, int64_t start,
                          int64_t stop, Sizes grid, double probability, bool mirror, const MaybeTensor& words,
                          const MaybeTensor& offsets) {
    const auto dtype = accumulation(input.scalar_type());
    const Geometry of(input.sizes().slice(2), grid);
    const auto [grids, places] =
        drawn(of, seed, start, stop - start, probability, words, offsets, input.device());
    Tensor mask = grids.to(dtype);
    for (int axis = 2; axis >= 0; --axis) {
      if (of.size[axis] == 1 && of.cells[axis] == 1) continue;
      const Tensor weights =
          interpolation(places.select(1, axis), of.size[axis], of.cells[axis], of.cell[axis], mirror).to(dtype);
      mask = at::einsum("nij,n...j->n...i", {weights, mask.movedim(axis + 1, -1)}).movedim(-1, axis + 1);
    }
    std::vector<int64_t> shape = input.sizes().slice(2).vec();
    shape.insert(shape.begin(), {stop - start, 1, 1});
    mask = mask.reshape(shape);
    Tensor result = mask * input.to(dtype);
    if (baseline)
      result = result + (1 - mask) * baseline->to(dtype);
    else if (fill != 0.0)
      result = result + (1 - mask) * fill;
    return result.to(input.scalar_type()).flatten(0, 1).contiguous(memory_format(input));
  }

  static bool launch(const Tensor& result, const Tensor& input, const MaybeTensor& baseline, double fill, int64_t seed,
                     int64_t start, int64_t stop, Sizes grid, double probability, bool mirror, const MaybeTensor& words,
                     const MaybeTensor& offsets) {
    const Geometry of(input.sizes().slice(2), grid);
    const int64_t count = stop - start;
    const auto design = words_of(result, of, seed, start, count, probability, words, offsets);
    if (!design) return false;
    std::array<double, 3> scale;
    for (int axis = 0; axis < 3; ++axis)
      scale[axis] = static_cast<double>(of.cells[axis]) / static_cast<double>((of.cells[axis] + 1) * of.cell[axis]);
    const Planes layout = planes_of(result);
    const int64_t planes = input.size(0) * layout.channels / layout.interleaved * layout.depth;
    const int kind = baseline ? 2 : fill != 0.0;
    const Tensor x = dense_like(input, result), b = baseline ? dense_like(*baseline, result) : x;
    const char* kernel = kind == 2 || of.cells[0] > 1 ? "masks.batch heavy" : "masks.batch";
    const auto tuned = [&](const char* name) { return setting(kernel, name, input.numel()); };
    const int64_t block_h = block_size(layout.height, tuned("rows"));
    const int64_t block_q = block_size(layout.length, std::max<int64_t>(256, tuned("tile") / block_h));
    const int64_t taken = per_program(count, tuned("items"));
    const int64_t span =
        std::min(of.cells[1], static_cast<int64_t>(static_cast<double>(block_h - 1) * scale[1]) + 3);
    return widest(layout.length, [&](int64_t vector) {
      return fastsal::launch(
          result, "masks.batch_kernel",
          {planes * ceil_div(layout.height, block_h), ceil_div(layout.length, block_q), ceil_div(count, taken)},
          tuned("num_warps"), result, x, b, design->first, design->second, count, planes, layout.depth, layout.height,
          layout.length / vector, of.cells[0], of.cells[1], of.cells[2], scale[0], scale[1], scale[2], fill,
          Constant{layout.interleaved}, Constant{vector}, Constant{kind}, Constant{mirror}, Constant{of.cells[0] > 1},
          Constant{span}, Constant{block_h}, Constant{block_q}, Constant{taken});
    });
  }
};

struct Accumulate {
  static constexpr const char* schema =
      "masks_accumulate(Tensor scores, Tensor? partial, int seed, SymInt start, int[] size, int[] grid, "
      "float probability, Tensor? words, Tensor? offsets) -> Tensor";

  static void check(const Tensor& scores, const MaybeTensor& partial, int64_t, int64_t start, Sizes size, Sizes grid,
                    double probability, const MaybeTensor& words, const MaybeTensor& offsets) {
    TORCH_CHECK_VALUE(scores.dim() == 2 && scores.is_floating_point(), "scores: ", scores.dtype(), " of shape ",
                      scores.sizes(), " is not floating point of shape [N, K]");
    check_range(start, start + scores.size(0));
    check_design(size, grid, probability, words, offsets, scores.size(0), scores.device());
    const Geometry of(size, grid);
    TORCH_CHECK_VALUE(!partial || (partial->sizes() == Sizes({of.buckets, scores.size(1), of.elements}) &&
                                   partial->scalar_type() == accumulation(scores.scalar_type()) &&
                                   partial->device() == scores.device()),
                      "partial: it is not ", accumulation(scores.scalar_type()), " of shape [", of.buckets, ", ",
                      scores.size(1), ", ", of.elements, "] on ", scores.device());
  }

  static Tensor empty(const Tensor& scores, const MaybeTensor&, int64_t, int64_t, Sizes size, Sizes grid, double,
                      const MaybeTensor&, const MaybeTensor&) {
    const Geometry of(size, grid);
    return at::empty({of.buckets, scores.size(1), of.elements},
                     scores.options().dtype(accumulation(scores.scalar_type())));
  }

  static Tensor bucket_of(const Geometry& of, const Tensor& places) {
    return (places.select(1, 0) * of.cell[1] + places.select(1, 1)) * of.cell[2] + places.select(1, 2);
  }

  static Tensor reference(const Tensor& scores, const MaybeTensor& partial, int64_t seed, int64_t start, Sizes size,
                          Sizes grid, double probability, const MaybeTensor& words, const MaybeTensor& offsets) {
    const Geometry of(size, grid);
    const auto dtype = accumulation(scores.scalar_type());
    const auto [grids, places] =
        drawn(of, seed, start, scores.size(0), probability, words, offsets, scores.device());
    const Tensor terms = scores.to(dtype).unsqueeze(2) * grids.flatten(1).unsqueeze(1).to(dtype);
    const Tensor before = partial ? *partial : at::zeros({of.buckets, scores.size(1), of.elements}, terms.options());
    return before.index_add(0, bucket_of(of, places), terms);
  }

  static bool launch(const Tensor& result, const Tensor& scores, const MaybeTensor& partial, int64_t seed,
                     int64_t start, Sizes size, Sizes grid, double probability, const MaybeTensor& words,
                     const MaybeTensor& offsets) {
    const Geometry of(size, grid);
    const int64_t count = scores.size(0), outputs = scores.size(1);
    const auto design = words_of(result, of, seed, start, count, probability, words, offsets);
    if (!design) return false;
    const auto [ordered, order] = bucket_of(of, design->second).sort(/*stable=*/true, 0, false);
    const Tensor edges = at::arange(of.buckets + 1, ordered.options());
    const Tensor starts = at::searchsorted(ordered, edges, /*out_int32=*/true);
    const int64_t block_e = block_size(of.elements, 256), block_k = block_size(outputs, 2048 / block_e);
    const Tensor before = partial ? partial->contiguous() : result;
    return fastsal::launch(result, "masks.accumulate_kernel",
                           {of.buckets, ceil_div(outputs, block_k), ceil_div(of.elements, block_e)}, 4, result, before,
                           scores.contiguous(), design->first, order, starts, outputs, of.cells[0] * of.cells[1],
                           of.cells[2], Constant{partial.has_value()}, Constant{block_k}, Constant{block_e});
  }
};

TORCH_LIBRARY_FRAGMENT(fastsal_native, library) {
  add<Batch>(library);
  add<Accumulate>(library);
}

}  // namespace
}  // namespace fastsal
