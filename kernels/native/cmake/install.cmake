# find_package(fastsal) after `cmake --install`.
install(EXPORT fastsal NAMESPACE fastsal:: DESTINATION "${CMAKE_INSTALL_LIBDIR}/cmake/fastsal" FILE fastsal-targets.cmake)
configure_package_config_file(cmake/fastsal-config.cmake.in "${CMAKE_CURRENT_BINARY_DIR}/fastsal-config.cmake"
  INSTALL_DESTINATION "${CMAKE_INSTALL_LIBDIR}/cmake/fastsal")
write_basic_package_version_file("${CMAKE_CURRENT_BINARY_DIR}/fastsal-config-version.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/fastsal-config.cmake"
              "${CMAKE_CURRENT_BINARY_DIR}/fastsal-config-version.cmake"
        DESTINATION "${CMAKE_INSTALL_LIBDIR}/cmake/fastsal")
