#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <cstdio>

int main() {
  using PathBatch = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, double);
  const auto path_batch =
      c10::Dispatcher::singleton().findSchemaOrThrow("fastsal_native::path_batch", "").typed<PathBatch>();
  const at::Tensor input = at::rand({1, 3, 8, 8}), alphas = at::linspace(0, 1, 5);
  const at::Tensor points = path_batch.call(input, alphas, std::nullopt, 0.0);
  const bool right = at::allclose(points, alphas.view({5, 1, 1, 1}) * input);
  std::printf("%s\n", right ? "five points of the path" : "wrong points");
  return right ? 0 : 1;
}
