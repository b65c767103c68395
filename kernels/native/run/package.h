// A package of fastsal.export, checked before any of it runs.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace fastsal {

struct Explained {
  at::Tensor output, map;
};

class Package {
 public:
  // Throws Refused for a file that is damaged, not a package, or for another PyTorch or device.
  explicit Package(const std::string& path);

  // Inputs [batch, ...] and targets [batch]; a negative target is the class with the highest output.
  Explained operator()(const at::Tensor& inputs, const at::Tensor& targets);

  // Throws Refused for inputs of another shape, dtype or batch.
  void check(const at::Tensor& inputs) const;

  std::string method;
  at::ScalarType dtype = at::kFloat;
  at::Device device = at::kCPU;
  std::vector<int64_t> shape;
  std::pair<int64_t, int64_t> batch;
  int64_t outputs = 0;

 private:
  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> loader_;
};

}  // namespace fastsal
