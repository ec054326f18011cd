# SPDX-License-Identifier: BSL-1.0
#
# Headers have no architecture, so the package config and the pkg-config file go under share/.

include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/multiprocessing)

if(CMAKE_VERSION VERSION_GREATER_EQUAL 3.23)
    install(TARGETS multiprocessing multiprocessing_tls EXPORT multiprocessing-targets
        FILE_SET HEADERS)
else()
    install(TARGETS multiprocessing multiprocessing_tls EXPORT multiprocessing-targets)
    install(DIRECTORY include/multiprocessing DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
endif()
install(EXPORT multiprocessing-targets
    NAMESPACE multiprocessing:: DESTINATION ${package_dir})

configure_package_config_file(cmake/multiprocessing-config.cmake.in
    ${CMAKE_CURRENT_BINARY_DIR}/multiprocessing-config.cmake
    INSTALL_DESTINATION ${package_dir})
# Before 1.0 a minor version may change anything.
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/multiprocessing-config-version.cmake
    COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES
    ${CMAKE_CURRENT_BINARY_DIR}/multiprocessing-config.cmake
    ${CMAKE_CURRENT_BINARY_DIR}/multiprocessing-config-version.cmake
    DESTINATION ${package_dir})

foreach(name multiprocessing multiprocessing-tls)
    configure_file(cmake/${name}.pc.in ${name}.pc @ONLY)
endforeach()
install(FILES
    ${CMAKE_CURRENT_BINARY_DIR}/multiprocessing.pc
    ${CMAKE_CURRENT_BINARY_DIR}/multiprocessing-tls.pc
    DESTINATION ${CMAKE_INSTALL_DATADIR}/pkgconfig)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

if(PROJECT_IS_TOP_LEVEL)
    set(CPACK_GENERATOR DEB)
    set(CPACK_PACKAGE_NAME libmultiprocessing-dev)
    set(CPACK_DEBIAN_PACKAGE_MAINTAINER "The multiprocessing developers")
    set(CPACK_RESOURCE_FILE_LICENSE ${CMAKE_CURRENT_SOURCE_DIR}/LICENSE)
    set(CPACK_DEBIAN_PACKAGE_ARCHITECTURE all)
    set(CPACK_DEBIAN_PACKAGE_SECTION libdevel)
    set(CPACK_DEBIAN_PACKAGE_DEPENDS "libboost-dev (>= 1.74), libcereal-dev (>= 1.3)")
    set(CPACK_DEBIAN_PACKAGE_SUGGESTS "libssl-dev (>= 3.0)")
    set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
    include(CPack)
endif()
