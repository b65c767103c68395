/* What stands in for libcuda.so.1 where there is no GPU: takes machine code of one architecture, and checks a launch.
 * STAND_IN_ARCHITECTURE is the device's (90), STAND_IN_CONTEXT=0 leaves the thread without a context. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_IMAGE = 200, NO_BINARY_FOR_GPU = 209 };
static int modules[2];
unsigned long stand_in_launches;
unsigned stand_in_grid[3], stand_in_block;

static int number(const char* name, int otherwise) {
  const char* text = getenv(name);
  return text ? atoi(text) : otherwise;
}

int cuInit(unsigned flags) { return flags ? 1 : OK; }
int cuCtxGetCurrent(void** context) {
  *context = number("STAND_IN_CONTEXT", 1) ? (void*)modules : NULL;
  return OK;
}
int cuCtxGetDevice(int* device) { return *device = 0, OK; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  const int architecture = number("STAND_IN_ARCHITECTURE", 90);
  *value = attribute == 75 ? architecture / 10 : attribute == 76 ? architecture % 10 : 0;
  return device;
}

/* The architecture is in the flags of the ELF header: in bits 8 to 15 from ABI version 8 on, below in older ones. */
int cuModuleLoadData(void** module, const void* image) {
  const unsigned char* bytes = image;
  uint32_t flags;
  if (memcmp(bytes, "\177ELF", 4) != 0) return INVALID_IMAGE;
  memcpy(&flags, bytes + 48, sizeof flags);
  const int built = bytes[8] >= 8 ? (int)(flags >> 8 & 0xff) : (int)(flags & 0xff);
  const int device = number("STAND_IN_ARCHITECTURE", 90);
  if (built >= 90 ? built != device : built / 10 != device / 10 || built > device) return NO_BINARY_FOR_GPU;
  *module = &modules[0];
  return OK;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  *function = module;
  return name[0] == '\0';
}
int cuFuncSetAttribute(void* function, int attribute, int value) { return !function || attribute != 8 || value < 0; }
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared, void* stream, void** values, void** extra) {
  (void)shared, (void)stream;
  if (!function || !values || extra || block_y != 1 || block_z != 1) return 1;
  stand_in_grid[0] = x, stand_in_grid[1] = y, stand_in_grid[2] = z, stand_in_block = block_x;
  ++stand_in_launches;
  return OK;
}
int cuGetErrorString(int code, const char** text) {
  *text = code == NO_BINARY_FOR_GPU ? "no kernel image is available" : "an error";
  return OK;
}
