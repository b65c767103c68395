#include <fastsal/kernels.h>
#include <stdio.h>

int main(void) {
  printf("fastsal %s: %zu cubins for sm_%s\n", fastsal_version(), fastsal_cubin_count(), fastsal_architectures());
  return fastsal_cubin_count() > 0 ? 0 : 1;
}
