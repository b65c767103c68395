# (a) The same kernels as operations of PyTorch, for a process without Triton or without Python.
add_library(fastsal_ops SHARED ops/_op.cpp ops/cam.cpp ops/masks.cpp ops/noise.cpp ops/patches.cpp ops/path.cpp
            ops/ranks.cpp ops/windows.cpp)
add_library(fastsal::ops ALIAS fastsal_ops)
target_link_libraries(fastsal_ops PRIVATE fastsal_kernels fastsal_torch ${CMAKE_DL_LIBS})
# Nobody calls it by a symbol: it registers itself when it is loaded.
target_link_options(fastsal_ops INTERFACE "LINKER:--no-as-needed")
target_compile_options(fastsal_ops PRIVATE -Wall -Wextra -Wno-unused-parameter)
set_target_properties(fastsal_ops PROPERTIES
  EXPORT_NAME ops VERSION "${PROJECT_VERSION}" SOVERSION "${PROJECT_VERSION_MAJOR}" CXX_VISIBILITY_PRESET hidden
  INSTALL_RPATH "$ORIGIN;${torch_folder}")
install(TARGETS fastsal_ops EXPORT fastsal LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
