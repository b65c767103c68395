#include "array.h"

#include <cctype>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>
#include <vector>

namespace fastsal {
namespace {

struct Kind {
  const char* name;
  at::ScalarType type;
};
constexpr Kind kKinds[] = {{"<f4", at::kFloat}, {"<f8", at::kDouble}, {"<f2", at::kHalf}, {"<i8", at::kLong}};

std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Refused("input: there is no file " + path);
  std::ostringstream content;
  content << file.rdbuf();
  return content.str();
}

at::Tensor tensor_of(const char* data, size_t bytes, std::vector<int64_t> shape, at::ScalarType type,
                     const std::string& path) {
  at::Tensor tensor = at::empty(shape, at::TensorOptions().dtype(type));
  if (bytes < tensor.nbytes()) throw Refused("input: " + path + " is truncated");
  std::memcpy(tensor.data_ptr(), data, tensor.nbytes());
  return tensor;
}

// The part of a header behind a key, up to a delimiter.
std::string value_of(const std::string& header, const std::string& key, char open, char close) {
  const size_t at = header.find(key);
  const size_t start = at == std::string::npos ? at : header.find(open, at + key.size());
  const size_t stop = start == std::string::npos ? start : header.find(close, start + 1);
  return stop == std::string::npos ? "" : header.substr(start + 1, stop - start - 1);
}

at::Tensor read_npy(const std::string& path) {
  const std::string content = content_of(path);
  if (content.size() < 12 || content.compare(0, 6, "\x93NUMPY") != 0)
    throw Refused("input: " + path + " is no .npy file");
  const bool wide = content[6] > 1;
  size_t length = static_cast<unsigned char>(content[8]) | static_cast<unsigned char>(content[9]) << 8;
  if (wide)
    length |= static_cast<size_t>(static_cast<unsigned char>(content[10])) << 16 |
              static_cast<size_t>(static_cast<unsigned char>(content[11])) << 24;
  const size_t start = wide ? 12 : 10;
  if (content.size() < start + length) throw Refused("input: " + path + " is truncated");
  const std::string header = content.substr(start, length);
  const std::string described = value_of(header, "'descr':", '\'', '\'');
  if (header.find("'fortran_order': False") == std::string::npos)
    throw Refused("input: " + path + " is in Fortran's order; save numpy.ascontiguousarray of it");
  std::vector<int64_t> shape;
  std::istringstream sizes(value_of(header, "'shape':", '(', ')'));
  for (std::string size; std::getline(sizes, size, ',');)
    if (size.find_first_of("0123456789") != std::string::npos) shape.push_back(std::stoll(size));
  for (const Kind& kind : kKinds)
    if (described == kind.name)
      return tensor_of(content.data() + start + length, content.size() - start - length, shape, kind.type, path);
  throw Refused("input: " + path + " has elements " + described + ", not float16, float32, float64 or int64");
}

// The next number of an image's header, behind white space and comments.
int64_t number_of(const std::string& content, size_t& at, const std::string& path) {
  for (;; ++at) {
    if (at >= content.size()) throw Refused("input: " + path + " is truncated");
    if (content[at] == '#') at = content.find('\n', at);
    else if (!std::isspace(static_cast<unsigned char>(content[at]))) break;
    if (at == std::string::npos) throw Refused("input: " + path + " is truncated");
  }
  int64_t number = 0;
  const size_t first = at;
  for (; at < content.size() && std::isdigit(static_cast<unsigned char>(content[at])) && at - first < 9; ++at)
    number = 10 * number + (content[at] - '0');
  if (at == first) throw Refused("input: " + path + " has no number where its size should be");
  return number;
}

at::Tensor read_image(const std::string& path) {
  const std::string content = content_of(path);
  if (content.size() < 2 || content[0] != 'P' || (content[1] != '5' && content[1] != '6'))
    throw Refused("input: " + path + " is no binary PGM or PPM image (P5 or P6)");
  const int64_t channels = content[1] == '6' ? 3 : 1;
  size_t at = 2;
  const int64_t width = number_of(content, at, path), height = number_of(content, at, path);
  const int64_t most = number_of(content, at, path);
  if (most != 255) throw Refused("input: " + path + " has values up to " + std::to_string(most) + ", not 255");
  ++at;
  if (at > content.size()) throw Refused("input: " + path + " is truncated");
  at::Tensor bytes = tensor_of(content.data() + at, content.size() - at, {height, width, channels}, at::kByte, path);
  return bytes.permute({2, 0, 1}).unsqueeze(0).to(at::kFloat).div(255).contiguous();
}

void write_npy(std::ofstream& file, const at::Tensor& tensor) {
  const char* described = nullptr;
  for (const Kind& kind : kKinds)
    if (tensor.scalar_type() == kind.type) described = kind.name;
  std::string header = std::string("{'descr': '") + described + "', 'fortran_order': False, 'shape': (";
  for (const int64_t size : tensor.sizes()) header += std::to_string(size) + ",";
  header += "), }";
  header += std::string(63 - (10 + header.size()) % 64, ' ') + "\n";
  file.write("\x93NUMPY\x01\x00", 8);
  const unsigned char length[2] = {static_cast<unsigned char>(header.size() & 0xff),
                                   static_cast<unsigned char>(header.size() >> 8)};
  file.write(reinterpret_cast<const char*>(length), 2);
  file << header;
  file.write(static_cast<const char*>(tensor.data_ptr()), static_cast<std::streamsize>(tensor.nbytes()));
}

void write_pgm(std::ofstream& file, const at::Tensor& tensor, const std::string& path) {
  if (tensor.dim() < 2) throw Refused("map: " + path + " cannot hold a map without height and width; write .npy");
  const int64_t height = tensor.size(-2), width = tensor.size(-1);
  at::Tensor map = tensor.reshape({-1, height, width})[0].to(at::kDouble);
  map = (map - map.min()) / (map.max() - map.min()).clamp_min(1e-300) * 255;
  const at::Tensor bytes = map.round().to(at::kByte).contiguous();
  file << "P5\n" << width << ' ' << height << "\n255\n";
  file.write(static_cast<const char*>(bytes.data_ptr()), static_cast<std::streamsize>(bytes.nbytes()));
}

}  // namespace

at::Tensor read_array(const std::string& path) {
  if (path.ends_with(".npy")) return read_npy(path);
  if (path.ends_with(".ppm") || path.ends_with(".pgm")) return read_image(path);
  throw Refused("input: " + path + " is neither .npy, .ppm nor .pgm; convert it (`magick in.png out.ppm`)");
}

void write_array(const std::string& path, const at::Tensor& tensor) {
  const bool array = path.ends_with(".npy");
  if (!array && !path.ends_with(".pgm")) throw Refused("map: " + path + " is neither .npy nor .pgm");
  std::ofstream file(path, std::ios::binary);
  if (!file) throw Refused("map: " + path + " cannot be written");
  at::Tensor whole = tensor.detach().cpu().contiguous();
  if (whole.scalar_type() == at::kBFloat16) whole = whole.to(at::kFloat);
  if (array) write_npy(file, whole);
  else write_pgm(file, whole, path);
  if (!file.flush()) throw Refused("map: " + path + " cannot be written");
}

}  // namespace fastsal
