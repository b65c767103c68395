# The libtorch that Python's torch is made of. Not find_package(Torch), which asks for the CUDA toolkit where that torch is
# a CUDA build: nothing here is compiled for a GPU by a C++ compiler.
set(describe "import pathlib, torch; print(pathlib.Path(torch.__file__).parent, torch.__version__.split('+')[0], \
int(torch._C._GLIBCXX_USE_CXX11_ABI), sep=';', end='')")
execute_process(COMMAND "${Python3_EXECUTABLE}" -c "${describe}" OUTPUT_VARIABLE described COMMAND_ERROR_IS_FATAL ANY)
list(GET described 0 torch_root)
list(GET described 1 torch_version)
list(GET described 2 torch_abi)
set(torch_folder "${torch_root}/lib")

add_library(fastsal_torch INTERFACE)
target_include_directories(fastsal_torch SYSTEM INTERFACE
  "${torch_root}/include" "${torch_root}/include/torch/csrc/api/include")
target_compile_definitions(fastsal_torch INTERFACE "_GLIBCXX_USE_CXX11_ABI=${torch_abi}")
# CUDA's part registers itself when it is loaded, and finds its own libraries by its own search path.
target_link_options(fastsal_torch INTERFACE "LINKER:--no-as-needed,--unresolved-symbols=ignore-in-shared-libs")
foreach(name torch torch_cpu c10 torch_cuda c10_cuda)
  if(EXISTS "${torch_folder}/lib${name}.so")
    target_link_libraries(fastsal_torch INTERFACE "${torch_folder}/lib${name}.so")
  endif()
endforeach()
