# A driver that stands in for NVIDIA's: it takes machine code of one architecture and counts launches.
add_library(stand_in_driver SHARED stand_in_driver.c)
enable_language(C)
add_executable(test_kernels test_kernels.c)
target_link_libraries(test_kernels PRIVATE fastsal_kernels)

add_test(NAME no_driver COMMAND test_kernels no-driver)
set_tests_properties(no_driver PROPERTIES ENVIRONMENT "FASTSAL_CUDA_DRIVER=${CMAKE_CURRENT_BINARY_DIR}/none.so")
add_test(NAME no_context COMMAND test_kernels no-context)
set_tests_properties(no_context PROPERTIES
  ENVIRONMENT "FASTSAL_CUDA_DRIVER=$<TARGET_FILE:stand_in_driver>;STAND_IN_CONTEXT=0;STAND_IN_ARCHITECTURE=90")
add_test(NAME arguments COMMAND test_kernels arguments)
set_tests_properties(arguments PROPERTIES
  ENVIRONMENT "FASTSAL_CUDA_DRIVER=$<TARGET_FILE:stand_in_driver>;STAND_IN_ARCHITECTURE=90")

# Architectures that have machine code: their own, and from 8.0 the higher minors.
set(known ${FASTSAL_CUDA_ARCHS})
if(80 IN_LIST known)
  list(APPEND known 86 89)
endif()
list(REMOVE_DUPLICATES known)
foreach(architecture 75 80 86 89 90 100 103 120 121)
  if(architecture IN_LIST known)
    add_test(NAME sm_${architecture} COMMAND test_kernels launch)
  else()
    add_test(NAME sm_${architecture}_refused COMMAND test_kernels refused)
  endif()
endforeach()
foreach(architecture 75 80 86 89 90 100 103 120 121)
  foreach(name sm_${architecture} sm_${architecture}_refused)
    if(TEST ${name})
      set_tests_properties(${name} PROPERTIES
        ENVIRONMENT "FASTSAL_CUDA_DRIVER=$<TARGET_FILE:stand_in_driver>;STAND_IN_ARCHITECTURE=${architecture}")
    endif()
  endforeach()
endforeach()

# Python's own launches, by way of the library.
list(GET FASTSAL_CUDA_ARCHS 0 first)
add_test(NAME launches COMMAND ${FASTSAL_PYTHON} "${CMAKE_CURRENT_SOURCE_DIR}/test_launches.py"
         "$<TARGET_FILE:fastsal_kernels>")
set_tests_properties(launches PROPERTIES
  ENVIRONMENT "FASTSAL_CUDA_DRIVER=$<TARGET_FILE:stand_in_driver>;STAND_IN_ARCHITECTURE=${first}")

# Installed, and found by another project.
add_test(NAME install COMMAND "${CMAKE_COMMAND}" --install "${PROJECT_BINARY_DIR}" --prefix
         "${CMAKE_CURRENT_BINARY_DIR}/prefix")
add_test(NAME find_package COMMAND "${CMAKE_CTEST_COMMAND}" --build-and-test "${CMAKE_CURRENT_SOURCE_DIR}/consumer"
         "${CMAKE_CURRENT_BINARY_DIR}/consumer" --build-generator "${CMAKE_GENERATOR}" --build-options
         "-DCMAKE_PREFIX_PATH=${CMAKE_CURRENT_BINARY_DIR}/prefix" --test-command consumer)
set_tests_properties(install PROPERTIES FIXTURES_SETUP installed)
set_tests_properties(find_package PROPERTIES FIXTURES_REQUIRED installed)

add_test(NAME doctor COMMAND ${FASTSAL_PYTHON} -m fastsal.cli doctor --native "$<TARGET_FILE:fastsal_kernels>")
set_tests_properties(doctor PROPERTIES PASS_REGULAR_EXPRESSION "sm_${first}")
