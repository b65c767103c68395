// fastsal-run: prediction and map of an image, by a package of fastsal.export, without Python.
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <map>
#include <sstream>

#include "array.h"
#include "package.h"
#include "text.h"

namespace {

using fastsal::joined;
using fastsal::Refused;

constexpr const char* kUsage =
    "usage: fastsal-run PACKAGE.pt2 INPUT [--target K] [--map FILE] [--mean A,B,C] [--std A,B,C] [--bench N]\n"
    "                   [--threads N]\n"
    "\n"
    "PACKAGE is what fastsal.export wrote. INPUT is a .npy array as the package takes it, or a .ppm or .pgm image, whose\n"
    "values become 0 to 1, then (value - mean) / std. The prediction is printed as JSON; --map writes the map as .npy or\n"
    ".pgm. --target explains class K in place of the top one. --bench times N runs.\n";

struct Arguments {
  std::vector<std::string> files;
  std::map<std::string, std::string> options;
};

Arguments arguments_of(int count, char** words) {
  const std::vector<std::string> known = {"--target", "--map", "--mean", "--std", "--bench", "--threads"};
  Arguments found;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    if (!word.starts_with("--")) {
      found.files.push_back(word);
      continue;
    }
    if (std::find(known.begin(), known.end(), word) == known.end()) throw Refused(word + ": no such option");
    if (++i == count) throw Refused(word + ": a value is missing");
    found.options[word] = words[i];
  }
  if (found.files.size() != 2) throw Refused("a package and an input are needed; --help tells more");
  return found;
}

int64_t number(const Arguments& arguments, const std::string& name, int64_t least, int64_t otherwise) {
  const auto found = arguments.options.find(name);
  if (found == arguments.options.end()) return otherwise;
  size_t read = 0;
  int64_t value = least - 1;
  try {
    value = std::stoll(found->second, &read);
  } catch (const std::exception&) {
  }
  if (read != found->second.size() || value < least)
    throw Refused(name + ": " + found->second + " is not a number from " + std::to_string(least) + " on");
  return value;
}

// One number for each channel, as [channels, 1, 1].
at::Tensor channels_of(const Arguments& arguments, const std::string& name, double otherwise, int64_t channels) {
  const auto found = arguments.options.find(name);
  if (found == arguments.options.end()) return at::full({channels, 1, 1}, otherwise, at::kDouble);
  std::vector<double> values;
  std::istringstream parts(found->second);
  for (std::string part; std::getline(parts, part, ',');) {
    size_t read = 0;
    double value = 0;
    try {
      value = std::stod(part, &read);
    } catch (const std::exception&) {
    }
    if (part.empty() || read != part.size()) throw Refused(name + ": " + part + " is not a number");
    values.push_back(value);
  }
  if (static_cast<int64_t>(values.size()) != channels)
    throw Refused(name + ": " + std::to_string(values.size()) + " given for " + std::to_string(channels) + " channels");
  return at::tensor(values, at::kDouble).view({channels, 1, 1});
}

at::Tensor input_of(const Arguments& arguments, const fastsal::Package& package) {
  const std::string& path = arguments.files[1];
  at::Tensor inputs = fastsal::read_array(path);
  if (!path.ends_with(".npy")) {
    const int64_t channels = inputs.size(1);
    const at::Tensor mean = channels_of(arguments, "--mean", 0, channels);
    const at::Tensor deviation = channels_of(arguments, "--std", 1, channels);
    inputs = ((inputs - mean) / deviation).to(package.dtype);
  } else if (arguments.options.count("--mean") || arguments.options.count("--std")) {
    throw Refused("--mean, --std: they are for images; an array is taken as it is");
  }
  package.check(inputs);
  return inputs.to(package.device);
}

std::string score(double value) {
  if (!std::isfinite(value)) return "null";  // JSON has no other word for it
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", value);
  return text;
}

// Of the sorted values, the one that a share of them does not exceed.
double quantile(const std::vector<double>& sorted, double share) {
  const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(sorted.size())));
  return sorted[std::max<size_t>(rank, 1) - 1];
}

void wait_for(const at::Device& device) {
  if (!device.is_cpu()) c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
}

std::string bench(fastsal::Package& package, const at::Tensor& inputs, const at::Tensor& targets, int64_t runs) {
  std::vector<double> milliseconds;
  for (int64_t run = 0; run < runs; ++run) {
    const auto began = std::chrono::steady_clock::now();
    package(inputs, targets);
    wait_for(package.device);
    milliseconds.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - began).count());
  }
  std::sort(milliseconds.begin(), milliseconds.end());
  std::ostringstream text;
  text << ", \"runs\": " << runs << ", \"p50_ms\": " << score(quantile(milliseconds, 0.5))
       << ", \"p99_ms\": " << score(quantile(milliseconds, 0.99)) << ", \"threads\": " << at::get_num_threads();
  return text.str();
}

void explain(const Arguments& arguments) {
  const int64_t threads = number(arguments, "--threads", 1, 0);
  if (threads > 0) at::set_num_threads(static_cast<int>(threads));
  const int64_t runs = number(arguments, "--bench", 1, 0);
  fastsal::Package package(arguments.files[0]);
  const int64_t target = number(arguments, "--target", 0, -1);
  if (target >= package.outputs)
    throw Refused("--target: " + std::to_string(target) + " is not below the package's " +
                  std::to_string(package.outputs) + " outputs");
  const c10::InferenceMode guard;
  const at::Tensor inputs = input_of(arguments, package);
  const at::Tensor targets = at::full({inputs.size(0)}, target, at::TensorOptions(at::kLong).device(package.device));
  const fastsal::Explained found = package(inputs, targets);
  if (const auto map = arguments.options.find("--map"); map != arguments.options.end())
    fastsal::write_array(map->second, found.map);
  const at::Tensor output = found.output.cpu().to(at::kDouble);
  const at::Tensor chosen = target < 0 ? output.argmax(1) : targets.cpu();
  std::vector<int64_t> classes;
  std::vector<std::string> scores;
  for (int64_t row = 0; row < output.size(0); ++row) {
    classes.push_back(chosen[row].item<int64_t>());
    scores.push_back(score(output[row][classes.back()].item<double>()));
  }
  std::cout << "{\"method\": \"" << package.method << "\", \"target\": [" << joined(classes)
            << "], \"score\": [" << joined(scores) << "], \"map_shape\": [" << joined(found.map.sizes()) << ']'
            << (runs ? bench(package, inputs, targets, runs) : "") << "}\n";
}

}  // namespace

int main(int count, char** words) {
  if (count < 2 || std::string(words[1]) == "--help") {
    std::cout << kUsage;
    return count < 2 ? 2 : 0;
  }
  if (std::string(words[1]) == "--version") {
    std::cout << "fastsal-run " FASTSAL_VERSION ", torch " FASTSAL_TORCH "\n";
    return 0;
  }
  try {
    explain(arguments_of(count, words));
    return 0;
  } catch (const Refused& refused) {
    std::cerr << "fastsal-run: " << refused.what() << '\n';
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "fastsal-run: " << fastsal::first_line(error.what()) << '\n';
    return 1;
  }
}
