# (a) Every kernel, compiled ahead of time.
set(generated "${CMAKE_CURRENT_BINARY_DIR}/generated")
string(REPLACE ";" "," architectures "${FASTSAL_CUDA_ARCHS}")
string(REPLACE ";" "," modules "${FASTSAL_KERNEL_MODULES}")
file(GLOB kernel_sources CONFIGURE_DEPENDS
     "${PROJECT_SOURCE_DIR}/kernels/fastsal_kernels/*.py" "${PROJECT_SOURCE_DIR}/kernels/fastsal_kernels/*.json"
     "${PROJECT_SOURCE_DIR}/kernels/fastsal_gate/*.py")
add_custom_command(
  OUTPUT "${generated}/cubins.S" "${generated}/cubins.inc"
  COMMAND ${FASTSAL_PYTHON} -m fastsal_gate.embed --out "${generated}" --architectures "${architectures}"
          --modules "${modules}"
  WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}"
  DEPENDS ${kernel_sources}
  COMMENT "Compiling the kernels for sm_${architectures} (some minutes)"
  VERBATIM)
add_library(fastsal_kernels SHARED src/kernels.cpp "${generated}/cubins.S" "${generated}/cubins.inc")
add_library(fastsal::kernels ALIAS fastsal_kernels)
set_source_files_properties("${generated}/cubins.S" PROPERTIES OBJECT_DEPENDS "${generated}/cubins.inc")
target_include_directories(fastsal_kernels
  PUBLIC "$<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include>" "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>"
  PRIVATE "${generated}")
target_compile_definitions(fastsal_kernels PRIVATE FASTSAL_VERSION="${PROJECT_VERSION}")
target_compile_options(fastsal_kernels PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra>)
find_package(Threads REQUIRED)
target_link_libraries(fastsal_kernels PRIVATE ${CMAKE_DL_LIBS} Threads::Threads)
set_target_properties(fastsal_kernels PROPERTIES
  EXPORT_NAME kernels VERSION "${PROJECT_VERSION}" SOVERSION "${PROJECT_VERSION_MAJOR}" CXX_VISIBILITY_PRESET hidden)

install(TARGETS fastsal_kernels EXPORT fastsal LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(FILES include/fastsal/kernels.h DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/fastsal")
