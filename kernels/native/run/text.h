// Words for people and programs.
#pragma once

#include <sstream>
#include <string>

namespace fastsal {

inline std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

// With ", " between, and as many digits as a float32 has.
template <typename Values>
std::string joined(const Values& values) {
  std::ostringstream text;
  text.precision(9);
  const char* between = "";
  for (const auto& value : values) {
    text << between << value;
    between = ", ";
  }
  return text.str();
}

}  // namespace fastsal
