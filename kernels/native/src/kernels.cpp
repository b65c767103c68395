// Chooses a cubin for a launch as Triton's just-in-time compiler would specialise it, and launches it.
#include "fastsal/kernels.h"

#include <bit>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "driver.h"

namespace {

struct Kernel {
  const char* name;
  const char* parameters;  // a letter each; see kernels/fastsal_gate/embed.py
};

struct Setting {
  int architecture;  // 0: any
  const char* kernel;
  int size;  // the power of two of the elements that it is for; -1: any
  const char* name;
  int value;
};

struct Cubin {
  const char* kernel;
  const char* signature;
  int architecture;
  const unsigned char* data;
  size_t size;
  const char* function;
  unsigned shared, threads;
};

#include "cubins.inc"

thread_local std::string last_error;

int fail(int status, std::string words) {
  last_error = std::move(words);
  return status;
}

constexpr const char* kTypes[] = {"*fp32", "*bf16", "*fp16", "*u8", "*i32", "*i64"};

const Kernel* find_kernel(std::string_view name) {
  for (const Kernel& kernel : kernels)
    if (name == kernel.name) return &kernel;
  return nullptr;
}

bool wide(char letter, int64_t value) {
  return letter == 'S' || letter == 'N' || value < INT32_MIN || value > INT32_MAX;
}

// The most special signature of a launch: types, =constants, :16 where divisible.
std::string signature_of(const Kernel& kernel, const fastsal_argument* arguments, int num_warps) {
  std::string text;
  for (size_t i = 0; kernel.parameters[i] != '\0'; ++i) {
    const char letter = kernel.parameters[i];
    const fastsal_argument& given = arguments[i];
    if (i) text += ',';
    switch (given.kind) {
      case FASTSAL_CONSTANT:
        text += '=' + std::to_string(given.value.integer);
        break;
      case FASTSAL_NUMBER:
        text += "fp32";
        break;
      case FASTSAL_INTEGER: {
        const int64_t value = given.value.integer;
        const bool special = letter == 's' || letter == 'S';
        if (special && value == 1) {
          text += "=1";
          break;
        }
        text += wide(letter, value) ? "i64" : "i32";
        if (special && value % 16 == 0) text += ":16";
        break;
      }
      case FASTSAL_POINTER:
        text += kTypes[given.dtype];
        if (reinterpret_cast<uintptr_t>(given.value.pointer) % 16 == 0) text += ":16";
        break;
    }
  }
  return text + '|' + std::to_string(num_warps);
}

std::vector<std::string_view> parts_of(std::string_view text) {
  std::vector<std::string_view> parts;
  for (size_t start = 0;;) {
    const size_t stop = text.find_first_of(",|", start);
    parts.push_back(text.substr(start, stop - start));
    if (stop == std::string_view::npos) return parts;
    start = stop + 1;
  }
}

// How specially a cubin fits a launch; negative where it does not. Less special machine code runs every launch.
int fit(std::string_view cubin, std::string_view launch, std::string_view letters) {
  const auto has = parts_of(cubin), wants = parts_of(launch);
  if (has.size() != wants.size()) return -1;
  int special = 0;
  for (size_t i = 0; i < has.size(); ++i) {
    if (has[i] == wants[i]) {
      special += i < letters.size() && letters[i] != 'c' && (has[i].front() == '=' || has[i].back() == '6');
      continue;
    }
    const bool looser = wants[i].substr(0, wants[i].find(':')) == has[i];
    const bool one = i < letters.size() && letters[i] == 's' && wants[i] == "=1" && has[i] == "i32";
    if (!looser && !one) return -1;
  }
  return special;
}

// Cubins of compute capability 8.x run on higher minors; from 9.0 on Triton compiles for one architecture alone.
bool runs_on(int built, int device) {
  return built >= 90 ? built == device : built / 10 == device / 10 && built <= device;
}

struct Loaded {
  void* function = nullptr;
  const Cubin* cubin = nullptr;
  int status = FASTSAL_OK;  // where there is none, kept with its words: a caller may ask at every call
  std::string words;
};

// Modules belong to a context.
std::map<std::pair<void*, std::string>, Loaded> loaded;
std::shared_mutex guard;

// Of the current context's device.
int architecture_of(const fastsal::Driver& cuda, int& architecture) {
  int device = 0, major = 0, minor = 0, code = 0;
  if ((code = cuda.device(&device)) || (code = cuda.attribute(&major, fastsal::Driver::kMajor, device)) ||
      (code = cuda.attribute(&minor, fastsal::Driver::kMinor, device)))
    return fail(FASTSAL_CUDA, "the CUDA driver does not tell the device's architecture: " + cuda.describe(code));
  architecture = 10 * major + minor;
  return FASTSAL_OK;
}

int load(const fastsal::Driver& cuda, const Kernel& kernel, const std::string& signature, Loaded& found) {
  int architecture = 0, code = 0;
  if (const int status = architecture_of(cuda, architecture)) return status;
  const Cubin* best = nullptr;
  int best_fit = -1;
  bool any_architecture = false, any_signature = false;
  for (const Cubin& cubin : cubins) {
    const bool runs = runs_on(cubin.architecture, architecture);
    any_architecture |= runs;
    if (std::strcmp(cubin.kernel, kernel.name) != 0) continue;
    const int fits = fit(cubin.signature, signature, kernel.parameters);
    any_signature |= fits >= 0;
    if (!runs || fits < 0) continue;
    if (fits > best_fit || (fits == best_fit && cubin.architecture > best->architecture)) {
      best = &cubin;
      best_fit = fits;
    }
  }
  if (!any_architecture)
    return fail(FASTSAL_NO_CUBIN, "no machine code for sm_" + std::to_string(architecture) +
                                      " inside, only for sm_" FASTSAL_ARCHITECTURES
                                      "; build with -DFASTSAL_CUDA_ARCHS=" +
                                      std::to_string(architecture));
  if (best == nullptr)
    return fail(any_signature ? FASTSAL_NO_CUBIN : FASTSAL_NO_KERNEL,
                std::string(kernel.name) + ": not compiled for (" + signature + ") on sm_" +
                    std::to_string(architecture) +
                    "; `fastsal doctor --native` lists what is; to have it too, add the launch to "
                    "kernels/fastsal_gate/library.py and build again");
  void* module = nullptr;
  if ((code = cuda.load(&module, best->data)) || (code = cuda.function(&found.function, module, best->function)) ||
      (best->shared > 49152 &&
       (code = cuda.set(found.function, fastsal::Driver::kDynamicShared, static_cast<int>(best->shared)))))
    return fail(FASTSAL_CUDA, std::string(kernel.name) + ": the CUDA driver does not load it: " + cuda.describe(code));
  found.cubin = best;
  return FASTSAL_OK;
}

}  // namespace

extern "C" {

const char* fastsal_error(void) { return last_error.c_str(); }
const char* fastsal_version(void) { return FASTSAL_VERSION; }
const char* fastsal_architectures(void) { return FASTSAL_ARCHITECTURES; }
size_t fastsal_cubin_count(void) { return sizeof cubins / sizeof *cubins; }

int fastsal_cubin_at(size_t index, fastsal_cubin* cubin) {
  if (index >= fastsal_cubin_count()) return fail(FASTSAL_NO_CUBIN, "there is no cubin " + std::to_string(index));
  const Cubin& found = cubins[index];
  *cubin = {found.kernel, found.signature, found.architecture, found.size};
  return FASTSAL_OK;
}

int64_t fastsal_setting(const char* kernel, const char* name, uint64_t elements) {
  int architecture = -1;  // not asked for yet: few kernels have entries of a device's own
  const auto here = [&architecture] {
    const fastsal::Driver& cuda = fastsal::Driver::get();
    void* context = nullptr;
    if (architecture < 0 && cuda.missing.empty() && cuda.context(&context) == 0 && context)
      architecture_of(cuda, architecture);
    return architecture;
  };
  const int size = elements > 1 ? static_cast<int>(std::bit_width(elements - 1)) : 0;
  const Setting* best = nullptr;
  // Of the device's own entries the nearest size; only without any of them, what is for every device.
  const auto distance = [size](const Setting& each) { return std::abs((each.size < 0 ? 20 : each.size) - size); };
  for (const Setting& each : settings) {
    if (std::strcmp(each.kernel, kernel) != 0 || std::strcmp(each.name, name) != 0) continue;
    if (each.architecture != 0 && each.architecture != here()) continue;
    const bool own = each.architecture != 0;
    if (best == nullptr || own > (best->architecture != 0) ||
        (own == (best->architecture != 0) && distance(each) < distance(*best)))
      best = &each;
  }
  return best ? best->value : 0;
}

int fastsal_driver(void) {
  const fastsal::Driver& cuda = fastsal::Driver::get();
  return cuda.missing.empty() ? FASTSAL_OK : fail(FASTSAL_NO_DRIVER, cuda.missing);
}

int fastsal_launch(const char* name, const uint32_t* grid, const fastsal_argument* arguments, size_t count,
                   int num_warps, void* stream) {
  const Kernel* kernel = find_kernel(name);
  if (kernel == nullptr) return fail(FASTSAL_NO_KERNEL, std::string("there is no kernel ") + name + "; `fastsal doctor --native` lists those that are");
  const std::string_view letters = kernel->parameters;
  if (count != letters.size())
    return fail(FASTSAL_NO_KERNEL, std::string(name) + ": takes " + std::to_string(letters.size()) +
                                       " arguments, not " + std::to_string(count));
  for (size_t i = 0; i < count; ++i)
    if ((letters[i] == 'c') != (arguments[i].kind == FASTSAL_CONSTANT))
      return fail(FASTSAL_NO_KERNEL, std::string(name) + ": argument " + std::to_string(i) +
                                         (letters[i] == 'c' ? " is a constant" : " is not a constant"));
  if (const int status = fastsal_driver()) return status;
  const fastsal::Driver& cuda = fastsal::Driver::get();
  void* context = nullptr;
  if (cuda.context(&context) != 0 || context == nullptr)
    return fail(FASTSAL_NO_CONTEXT, "this thread has no current CUDA context; make one first (cudaSetDevice does)");

  const std::string signature = signature_of(*kernel, arguments, num_warps);
  auto key = std::make_pair(context, std::string(name) + '(' + signature);
  Loaded found{};
  {
    std::shared_lock lock(guard);
    if (const auto known = loaded.find(key); known != loaded.end()) found = known->second;
  }
  if (found.cubin == nullptr && found.status == FASTSAL_OK) {
    std::unique_lock lock(guard);
    if (const auto known = loaded.find(key); known != loaded.end()) {
      found = known->second;
    } else {
      found.status = load(cuda, *kernel, signature, found);
      found.words = found.status ? last_error : "";
      if (found.status != FASTSAL_CUDA) loaded.emplace(std::move(key), found);
    }
  }
  if (found.status) return fail(found.status, found.words);

  // The cubin's own parameters: what it took as constants is not among them; two scratch pointers of Triton's end them.
  const auto types = parts_of(found.cubin->signature);
  std::vector<int32_t> narrow(count);
  std::vector<float> numbers(count);
  std::vector<void*> values;
  for (size_t i = 0; i < count; ++i) {
    if (types[i].front() == '=') continue;
    const fastsal_argument& given = arguments[i];
    if (given.kind == FASTSAL_NUMBER) {
      numbers[i] = static_cast<float>(given.value.number);
      values.push_back(&numbers[i]);
    } else if (types[i].substr(0, 3) == "i32") {
      narrow[i] = static_cast<int32_t>(given.value.integer);
      values.push_back(&narrow[i]);
    } else {
      values.push_back(const_cast<void*>(static_cast<const void*>(&given.value)));
    }
  }
  void* scratch[2] = {nullptr, nullptr};
  values.push_back(&scratch[0]);
  values.push_back(&scratch[1]);
  const int code = cuda.launch(found.function, grid[0], grid[1], grid[2], found.cubin->threads, 1, 1,
                               found.cubin->shared, stream, values.data(), nullptr);
  if (code != 0) return fail(FASTSAL_CUDA, std::string(name) + ": the launch failed: " + cuda.describe(code));
  return FASTSAL_OK;
}
}
