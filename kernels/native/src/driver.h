// The part of the CUDA driver that a launch needs, opened at run time. Its declarations are the driver's own binary
// interface, which does not change, so that no toolkit is needed to build.
#pragma once

#include <dlfcn.h>

#include <cstdlib>
#include <string>

namespace fastsal {

struct Driver {
  static constexpr int kMajor = 75, kMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
  static constexpr int kDynamicShared = 8;        // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES

  int (*init)(unsigned) = nullptr;
  int (*context)(void**) = nullptr;
  int (*device)(int*) = nullptr;
  int (*attribute)(int*, int, int) = nullptr;
  int (*load)(void**, const void*) = nullptr;
  int (*function)(void**, void*, const char*) = nullptr;
  int (*set)(void*, int, int) = nullptr;
  int (*launch)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**,
                void**) = nullptr;
  int (*words)(int, const char**) = nullptr;
  std::string missing;  // why it cannot be used; empty where it can

  // Opened once, for the process.
  static const Driver& get() {
    static const Driver driver;
    return driver;
  }

  std::string describe(int code) const {
    const char* text = nullptr;
    if (words(code, &text) != 0 || text == nullptr) text = "unknown error";
    return std::string(text) + " (" + std::to_string(code) + ")";
  }

 private:
  Driver() {
    const char* named = std::getenv("FASTSAL_CUDA_DRIVER");
    void* library = dlopen(named ? named : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      missing = std::string("no CUDA driver: ") + (named ? named : "libcuda.so.1") +
                " cannot be opened; install NVIDIA's driver";
      return;
    }
    find(library, "cuInit", init);
    find(library, "cuCtxGetCurrent", context);
    find(library, "cuCtxGetDevice", device);
    find(library, "cuDeviceGetAttribute", attribute);
    find(library, "cuModuleLoadData", load);
    find(library, "cuModuleGetFunction", function);
    find(library, "cuFuncSetAttribute", set);
    find(library, "cuLaunchKernel", launch);
    find(library, "cuGetErrorString", words);
    if (!missing.empty()) return;
    if (int code = init(0); code != 0) missing = "no CUDA device that the driver can use: " + describe(code);
  }

  template <typename Function>
  void find(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    if (function == nullptr) missing = std::string("no CUDA driver: libcuda.so.1 has no ") + name;
  }
};

}  // namespace fastsal
