// What every op in C++ has: the meaning in ATen operations, the launch of its Triton kernels, and its registration.
//
// An op is a struct with the schema of fastsal's op in Python and
//   check(arguments...)            throws for what the launch or the meaning could not stand;
//   reference(arguments...)        the meaning (fastsal/reference), on any device, without derivative;
//   empty(arguments...)            the result's memory;
//   supported(arguments...)        whether the kernels cover these arguments; those of an op without it cover all;
//   launch(result, arguments...)   false where the library has no kernel for them.
#pragma once

#include <ATen/ATen.h>
#include <torch/library.h>

#include <concepts>
#include <optional>
#include <vector>

#include "fastsal/kernels.h"

namespace fastsal {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;
using Sizes = at::IntArrayRef;

// --- Arithmetic that several ops share (fastsal/reference/_numerics.py). ---

at::ScalarType accumulation(at::ScalarType dtype);
at::MemoryFormat memory_format(const Tensor& tensor);
// Rows of `count` copies of an input, in its dtype and memory format.
Tensor empty_rows(const Tensor& input, int64_t count);
// Whether an optional baseline broadcasts to the input and lies beside it.
void check_baseline(const Tensor& input, const MaybeTensor& baseline);
void check_range(int64_t start, int64_t stop);

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// --- Launches (fastsal_kernels/_launch.py). ---

Tensor dense_like(const Tensor& tensor, const Tensor& result);
int64_t block_size(int64_t length, int64_t most);
int64_t vector_width(int64_t length);
int64_t per_program(int64_t count, int64_t usual);

struct Planes {
  int64_t channels, depth, height, length, interleaved;
};
Planes planes_of(const Tensor& result);

// A tuned block of a kernel on the current device.
int64_t setting(const char* kernel, const char* name, int64_t elements);

struct Constant {
  int64_t value;
};

fastsal_argument argument(const Tensor& tensor);
fastsal_argument argument(Constant constant);
inline fastsal_argument argument(std::floating_point auto number) {
  fastsal_argument result{FASTSAL_NUMBER, FASTSAL_F32, {}};
  result.value.number = number;
  return result;
}
inline fastsal_argument argument(std::integral auto integer) {
  fastsal_argument result{FASTSAL_INTEGER, FASTSAL_I64, {}};
  result.value.integer = integer;
  return result;
}

using Grid = std::array<int64_t, 3>;

bool launch_on(const Tensor& result, const char* kernel, Grid grid, int64_t num_warps,
               const std::vector<fastsal_argument>& arguments);

// False where no kernel inside fits.
template <class... Arguments>
bool launch(const Tensor& result, const char* kernel, Grid grid, int64_t num_warps, const Arguments&... arguments) {
  return launch_on(result, kernel, grid, num_warps, {argument(arguments)...});
}

// With vectors as wide as the length allows, or where no kernel is compiled for that, with single elements.
template <class Attempt>
bool widest(int64_t length, Attempt attempt) {
  const int64_t vector = vector_width(length);
  return attempt(vector) || (vector > 1 && attempt(int64_t{1}));
}

// --- Registration. ---

// Whether kernels take tensors of this kind at all (fastsal/ops/_backend.py).
bool for_kernels(const Tensor& lead);

template <class Op, class Signature>
struct Entry;

template <class Op, class Lead, class... Rest>
struct Entry<Op, Tensor(Lead, Rest...)> {
  static Tensor plain(Lead lead, Rest... rest) {
    Op::check(lead, rest...);
    return Op::reference(lead, rest...);
  }

  static Tensor kernel(Lead lead, Rest... rest) {
    Op::check(lead, rest...);
    if (!for_kernels(lead)) return Op::reference(lead, rest...);
    if constexpr (requires { Op::supported(lead, rest...); })
      if (!Op::supported(lead, rest...)) return Op::reference(lead, rest...);
    const c10::DeviceGuard guard(lead.device());
    Tensor result = Op::empty(lead, rest...);
    if (result.numel() == 0 || Op::launch(result, lead, rest...)) return result;
    return Op::reference(lead, rest...);
  }

  static Tensor meta(Lead lead, Rest... rest) {
    Op::check(lead, rest...);
    return Op::empty(lead, rest...);
  }
};

template <class Op>
void add(torch::Library& library) {
  using Registered = Entry<Op, decltype(Op::reference)>;
  const std::string schema = Op::schema;
  const std::string name = schema.substr(0, schema.find('('));
  library.def(Op::schema);
  library.impl(name.c_str(), torch::dispatch(c10::DispatchKey::CPU, &Registered::plain));
  library.impl(name.c_str(), torch::dispatch(c10::DispatchKey::CUDA, &Registered::kernel));
  library.impl(name.c_str(), torch::dispatch(c10::DispatchKey::Meta, &Registered::meta));
}

}  // namespace fastsal
