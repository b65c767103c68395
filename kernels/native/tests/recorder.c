/* Stands in front of the library of kernels: writes launches down, as JSON, in the place of making them. */
#include <fastsal/kernels.h>
#include <inttypes.h>
#include <stdio.h>

static char text[1 << 20];
static size_t used;

const char* recorded(void) {
  used = 0;
  return text;
}

int fastsal_launch(const char* kernel, const uint32_t* grid, const fastsal_argument* arguments, size_t count,
                   int num_warps, void* stream) {
  (void)stream;
#define WRITE(...) used += (size_t)snprintf(text + used, sizeof text - used, __VA_ARGS__)
  WRITE("{\"kernel\": \"%s\", \"grid\": [%u, %u, %u], \"warps\": %d, \"arguments\": [", kernel, grid[0], grid[1],
        grid[2], num_warps);
  for (size_t i = 0; i < count; ++i) {
    const fastsal_argument* each = &arguments[i];
    WRITE("%s[%d, ", i ? ", " : "", each->kind);
    if (each->kind == FASTSAL_NUMBER)
      WRITE("%.17g]", each->value.number);
    else if (each->kind == FASTSAL_POINTER)
      WRITE("[%d, %" PRIuPTR "]]", each->dtype, (uintptr_t)each->value.pointer);
    else
      WRITE("%" PRId64 "]", each->value.integer);
  }
  WRITE("]}\n");
  return FASTSAL_OK;
}
