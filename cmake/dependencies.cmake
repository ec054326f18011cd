# SPDX-License-Identifier: BSL-1.0
#
# Boost (headers), cereal and threads: what the machine has comes first, a fixed version is
# downloaded second. Downloaded headers become imported targets under the names that their
# packages use, so that the rest of the build and the installed config know only these names.

include(FetchContent)
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)

# fetch_headers(TARGET NAME FOLDER URL HASH): a header-only package as an imported target
function(multiprocessing_fetch_headers target name folder url hash)
    message(STATUS "${name} not found: downloading ${url}")
    if(CMAKE_VERSION VERSION_GREATER_EQUAL 3.24)
        set(timestamp DOWNLOAD_EXTRACT_TIMESTAMP ON)
    endif()
    # SOURCE_SUBDIR names a folder without a CMakeLists.txt: unpack, but add no targets
    FetchContent_Declare(${name} URL ${url} URL_HASH SHA256=${hash} SOURCE_SUBDIR none ${timestamp})
    FetchContent_MakeAvailable(${name})
    string(TOLOWER ${name} lower)
    add_library(${target} INTERFACE IMPORTED GLOBAL)
    target_include_directories(${target} SYSTEM INTERFACE ${${lower}_SOURCE_DIR}/${folder})
endfunction()

if(NOT TARGET Boost::headers)
    find_package(Boost 1.74 QUIET)
endif()
if(NOT TARGET Boost::headers)
    multiprocessing_fetch_headers(Boost::headers boost .
        https://archives.boost.io/release/1.84.0/source/boost_1_84_0.tar.bz2
        cc4b893acf645c9d4b698e9a0f08ca8846aa5d6c68275c14c3e7949c24109454)
endif()

if(NOT TARGET cereal::cereal)
    find_package(cereal 1.3 CONFIG QUIET)
    if(TARGET cereal AND NOT TARGET cereal::cereal)  # 1.3.0 has no namespace
        add_library(cereal::cereal INTERFACE IMPORTED GLOBAL)
        target_link_libraries(cereal::cereal INTERFACE cereal)
    endif()
endif()
if(NOT TARGET cereal::cereal)
    multiprocessing_fetch_headers(cereal::cereal cereal include
        https://github.com/USCiLab/cereal/archive/refs/tags/v1.3.2.tar.gz
        16a7ad9b31ba5880dac55d62b5d6f243c3ebc8d46a3514149e56b5e7ea81f85f)
endif()

# For the component tls alone; who links to that without OpenSSL is told that the target is missing.
find_package(OpenSSL 3.0 QUIET)
