add_library(recorder SHARED recorder.c)
target_include_directories(recorder PRIVATE ../include)
add_test(NAME ops COMMAND ${FASTSAL_PYTHON} "${CMAKE_CURRENT_SOURCE_DIR}/test_ops.py" "$<TARGET_FILE:fastsal_ops>"
         "$<TARGET_FILE:recorder>")
set_tests_properties(ops PROPERTIES TIMEOUT 600)

# From another project, in a process without Python.
add_test(NAME find_package_ops COMMAND "${CMAKE_CTEST_COMMAND}" --build-and-test
         "${CMAKE_CURRENT_SOURCE_DIR}/consumer_ops" "${CMAKE_CURRENT_BINARY_DIR}/consumer_ops"
         --build-generator "${CMAKE_GENERATOR}"
         --build-options "-Dfastsal_ROOT=${CMAKE_CURRENT_BINARY_DIR}/prefix" "-DTORCH=${torch_root}"
         --test-command consumer_ops)
set_tests_properties(find_package_ops PROPERTIES FIXTURES_REQUIRED installed)
