#include "package.h"

#include <fstream>
#include <sstream>
#include <unordered_map>

#include "array.h"
#include "text.h"

namespace fastsal {
namespace {

using Texts = std::unordered_map<std::string, std::string>;
constexpr const char* kFormat = "1";  // of fastsal/deploy/_metadata.py

const std::string& text_of(const Texts& texts, const std::string& name, const std::string& path) {
  const auto found = texts.find(name);
  if (found == texts.end()) throw Refused("package: " + path + " does not say its " + name + "; export it again");
  return found->second;
}

// "2.13" of "2.13.0+cpu".
std::string minor_of(const std::string& version) {
  const size_t first = version.find('.');
  return version.substr(0, version.find('.', first == std::string::npos ? first : first + 1));
}

at::ScalarType type_of(const std::string& name, const std::string& path) {
  const std::pair<const char*, at::ScalarType> known[] = {
      {"float32", at::kFloat}, {"float64", at::kDouble}, {"bfloat16", at::kBFloat16}, {"float16", at::kHalf}};
  for (const auto& [each, type] : known)
    if (name == each) return type;
  throw Refused("package: " + path + " takes " + name + ", which this fastsal-run does not know");
}

}  // namespace

Package::Package(const std::string& path) {
  using torch::inductor::AOTIModelPackageLoader;
  if (!std::ifstream(path)) throw Refused("package: there is no file " + path);
  Texts texts;
  try {
    texts = AOTIModelPackageLoader::load_metadata_from_package(path, "model");
  } catch (const std::exception&) {
    throw Refused("package: " + path + " is damaged, truncated or no package; export or copy it again");
  }
  const auto format = texts.find("fastsal_format");
  if (format == texts.end()) throw Refused("package: " + path + " was not made by fastsal.export");
  if (format->second != kFormat)
    throw Refused("package: " + path + " has format " + format->second + ", this fastsal-run reads format " + kFormat +
                  "; export it again");
  const std::string& made = text_of(texts, "torch", path);
  if (minor_of(made) != minor_of(FASTSAL_TORCH))
    throw Refused("package: " + path + " was made with torch " + made + ", this fastsal-run has " FASTSAL_TORCH
                  "; export it again with that one");
  if (text_of(texts, "device", path) != "cpu") {
    if (!at::hasCUDA()) throw Refused("package: " + path + " is for a CUDA device, and this libtorch has none");
    device = at::Device(at::kCUDA, 0);
  }
  method = text_of(texts, "method", path);
  dtype = type_of(text_of(texts, "input_dtype", path), path);
  std::istringstream sizes(text_of(texts, "input_shape", path));
  for (std::string size; std::getline(sizes, size, ',');) shape.push_back(std::stoll(size));
  const std::string& range = text_of(texts, "batch", path);
  batch = {std::stoll(range), std::stoll(range.substr(range.find('-') + 1))};
  outputs = std::stoll(text_of(texts, "outputs", path));
  try {
    loader_ = std::make_unique<AOTIModelPackageLoader>(path);
  } catch (const std::exception& error) {
    throw Refused("package: " + path + " cannot be loaded: " + first_line(error.what()));
  }
}

void Package::check(const at::Tensor& inputs) const {
  if (inputs.scalar_type() != dtype)
    throw Refused(std::string("input: ") + c10::toString(inputs.scalar_type()) + ", the package takes " +
                  c10::toString(dtype));
  const bool same = inputs.dim() == static_cast<int64_t>(shape.size()) + 1 && inputs.sizes().slice(1) == shape;
  if (!same || inputs.size(0) < batch.first || inputs.size(0) > batch.second) {
    const std::string most = batch.first == batch.second ? "" : " to " + std::to_string(batch.second);
    throw Refused("input: shape [" + joined(inputs.sizes()) + "], the package takes [" +
                  std::to_string(batch.first) + most + ", " + joined(shape) + "]");
  }
}

Explained Package::operator()(const at::Tensor& inputs, const at::Tensor& targets) {
  std::vector<at::Tensor> found = loader_->run({inputs, targets});
  return {found.at(0), found.at(1)};
}

}  // namespace fastsal
