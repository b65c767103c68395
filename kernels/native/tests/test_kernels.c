/* The library against a stand-in driver, or none. The argument names what is to be seen. */
#include <fastsal/kernels.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST 64

static int failures;

static void check(int holds, const char* what) {
  if (holds) return;
  ++failures;
  fprintf(stderr, "not so: %s (the library says: %s)\n", what, fastsal_error());
}

static int one_line(const char* text) { return text[0] != '\0' && strchr(text, '\n') == NULL; }

/* Arguments that a signature is for, such as "*fp32:16,i32,=4|8"; returns how many, and the warps. */
static size_t arguments_of(const char* signature, fastsal_argument* arguments, int* warps) {
  static const char* const types[] = {"*fp32", "*bf16", "*fp16", "*u8", "*i32", "*i64"};
  size_t count = 0;
  for (const char* part = signature; *part != '|'; ++count) {
    fastsal_argument* argument = &arguments[count];
    const size_t length = strcspn(part, ",|");
    const int divisible = length > 3 && strncmp(part + length - 3, ":16", 3) == 0;
    memset(argument, 0, sizeof *argument);
    if (*part == '*') {
      argument->kind = FASTSAL_POINTER;
      for (int type = 0; type < 6; ++type)
        if (strncmp(part, types[type], strlen(types[type])) == 0) argument->dtype = (enum fastsal_dtype)type;
      argument->value.pointer = (void*)(size_t)(divisible ? 4096 : 4104);
    } else if (*part == '=') {
      argument->kind = FASTSAL_CONSTANT;
      argument->value.integer = atoll(part + 1);
    } else if (*part == 'f') {
      argument->kind = FASTSAL_NUMBER;
      argument->value.number = 0.5;
    } else {
      argument->kind = FASTSAL_INTEGER;
      argument->value.integer = (strncmp(part, "i64", 3) == 0 ? 1LL << 33 : 0) + (divisible ? 48 : 7);
    }
    part += length + (part[length] == ',');
  }
  *warps = atoi(strchr(signature, '|') + 1);
  return count;
}

/* An integer that is 1 is written as a constant is; the library says which it was. */
static int launch(const fastsal_cubin* cubin) {
  fastsal_argument arguments[MOST];
  int warps;
  const uint32_t grid[3] = {5, 1, 1};
  const size_t count = arguments_of(cubin->signature, arguments, &warps);
  for (size_t tries = 0; tries <= count; ++tries) {
    const int status = fastsal_launch(cubin->kernel, grid, arguments, count, warps, NULL);
    const char* where = strstr(fastsal_error(), ": argument ");
    if (status != FASTSAL_NO_KERNEL || where == NULL) return status;
    arguments[atoi(where + strlen(": argument "))].kind = FASTSAL_INTEGER;
  }
  return FASTSAL_NO_KERNEL;
}

static void every_kernel_launches(void) {
  size_t launched = 0;
  const int device = atoi(getenv("STAND_IN_ARCHITECTURE"));
  for (size_t i = 0; i < fastsal_cubin_count(); ++i) {
    fastsal_cubin cubin;
    check(fastsal_cubin_at(i, &cubin) == FASTSAL_OK, "a cubin is listed");
    check(cubin.bytes > 0, "a cubin has bytes");
    const int own = cubin.architecture == device;
    const int lower = cubin.architecture < 90 && cubin.architecture / 10 == device / 10 && cubin.architecture < device;
    if (!own && !lower) continue;
    if (launch(&cubin) != FASTSAL_OK) {
      ++failures;
      fprintf(stderr, "%s(%s) on sm_%d: %s\n", cubin.kernel, cubin.signature, device, fastsal_error());
    }
    ++launched;
  }
  check(launched > 0, "the architecture has machine code");
  printf("%zu kernels launched\n", launched);
}

static void refused(int status, const char* words) {
  fastsal_cubin cubin;
  fastsal_cubin_at(0, &cubin);
  check(launch(&cubin) == status, "the launch is refused");
  check(one_line(fastsal_error()) && strstr(fastsal_error(), words) != NULL, words);
  printf("%s\n", fastsal_error());
}

static void arguments_are_checked(void) {
  const uint32_t grid[3] = {1, 1, 1};
  fastsal_argument arguments[MOST];
  fastsal_cubin cubin;
  int warps;
  check(fastsal_launch("path.none", grid, arguments, 0, 4, NULL) == FASTSAL_NO_KERNEL, "an unknown kernel");
  check(strstr(fastsal_error(), "there is no kernel path.none") != NULL, "it is named");
  fastsal_cubin_at(0, &cubin);
  const size_t count = arguments_of(cubin.signature, arguments, &warps);
  check(fastsal_launch(cubin.kernel, grid, arguments, count - 1, warps, NULL) == FASTSAL_NO_KERNEL, "too few arguments");
  check(strstr(fastsal_error(), "arguments, not") != NULL, "both numbers are named");
  check(fastsal_cubin_at(fastsal_cubin_count(), &cubin) == FASTSAL_NO_CUBIN, "a cubin that is not there");
  fastsal_cubin_at(0, &cubin);
  check(fastsal_launch(cubin.kernel, grid, arguments, count, 32, NULL) != FASTSAL_OK, "warps that it was not compiled for");
  check(one_line(fastsal_error()), "in one line");
}

int main(int count, char** words) {
  const char* what = count > 1 ? words[1] : "";
  if (strcmp(what, "launch") == 0) every_kernel_launches();
  else if (strcmp(what, "refused") == 0) refused(FASTSAL_NO_CUBIN, "no machine code for sm_");
  else if (strcmp(what, "no-driver") == 0) refused(FASTSAL_NO_DRIVER, "no CUDA driver");
  else if (strcmp(what, "no-context") == 0) refused(FASTSAL_NO_CONTEXT, "no current CUDA context");
  else if (strcmp(what, "arguments") == 0) arguments_are_checked();
  else return fprintf(stderr, "which test?\n"), 2;
  return failures != 0;
}
