/* fastsal's Triton kernels, compiled ahead of time: no Triton, no Python, no CUDA toolkit.
 *
 * Machine code for the architectures that the library was built for is inside it. The CUDA driver (libcuda.so.1) is
 * opened at the first launch; the rest works without one. Every function may be called from any thread. */
#ifndef FASTSAL_KERNELS_H
#define FASTSAL_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

enum fastsal_status {
  FASTSAL_OK = 0,
  FASTSAL_NO_DRIVER = 1,   /* no CUDA driver, or no device that it can use */
  FASTSAL_NO_CONTEXT = 2,  /* this thread has no current CUDA context */
  FASTSAL_NO_KERNEL = 3,   /* no kernel of that name, or none for these arguments */
  FASTSAL_NO_CUBIN = 4,    /* none for this architecture */
  FASTSAL_CUDA = 5         /* the driver refused; fastsal_error() has its words */
};

enum fastsal_kind { FASTSAL_POINTER = 0, FASTSAL_INTEGER = 1, FASTSAL_NUMBER = 2, FASTSAL_CONSTANT = 3 };
enum fastsal_dtype { FASTSAL_F32 = 0, FASTSAL_BF16 = 1, FASTSAL_F16 = 2, FASTSAL_U8 = 3, FASTSAL_I32 = 4, FASTSAL_I64 = 5 };

/* A kernel's argument: a device pointer with its elements' type, an integer, a number, or one of the kernel's
 * compile-time constants. */
typedef struct fastsal_argument {
  enum fastsal_kind kind;
  enum fastsal_dtype dtype; /* of a pointer */
  union {
    void* pointer;
    int64_t integer; /* also a constant's */
    double number;
  } value;
} fastsal_argument;

/* Launch on the current context's device. The kernel is named as in Python ("path.batch_kernel") and takes its
 * arguments in order, pointers to device memory; grid has three entries; stream is a CUstream (a cudaStream_t is one).
 * Returns a status: what was not compiled is refused, and fastsal_error() says what to do. */
int fastsal_launch(const char* kernel, const uint32_t* grid, const fastsal_argument* arguments, size_t count,
                   int num_warps, void* stream);

/* A kernel's block that was tuned for inputs of so many elements, such as ("path.batch", "block"), on the current
 * context's device; what is for every device where there is none. 0 for a name that is not known. */
int64_t fastsal_setting(const char* kernel, const char* name, uint64_t elements);

/* Whether the driver is there: a status. */
int fastsal_driver(void);

/* What the calling thread's last failed call has to say, in one line; empty before. */
const char* fastsal_error(void);

/* The version of fastsal that the library was built from. */
const char* fastsal_version(void);

/* Architectures inside, such as "80,90,100,120". */
const char* fastsal_architectures(void);

/* The machine code inside: how many, and of each the kernel's name, signature, architecture and bytes. */
typedef struct fastsal_cubin {
  const char* kernel;
  const char* signature;
  int architecture;
  size_t bytes;
} fastsal_cubin;
size_t fastsal_cubin_count(void);
int fastsal_cubin_at(size_t index, fastsal_cubin* cubin);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif
#endif
