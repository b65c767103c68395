// Arrays in files: NumPy's .npy, and PGM and PPM images.
#pragma once

#include <ATen/ATen.h>

#include <stdexcept>
#include <string>

namespace fastsal {

// What a person is told, in one line.
struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A tensor from a .npy file as it is, or an image of 8 bits as float32 [1, channels, height, width] in [0, 1].
at::Tensor read_array(const std::string& path);

// A tensor as .npy, or its first map [..., height, width] as .pgm from its least value (0) to its largest (255).
void write_array(const std::string& path, const at::Tensor& tensor);

}  // namespace fastsal
