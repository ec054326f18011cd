#!/bin/bash
# SPDX-License-Identifier: BSL-1.0
#
# check.sh WAY SOURCE BUILD SCRATCH CXX: builds and runs program/ against the library, found by
#   package       find_package, from an install
#   subdirectory  add_subdirectory
#   pkgconfig     pkg-config, from an install
#   include       -I alone
set -eu
way=$1 source=$2 build=$3 scratch=$4 cxx=$5
program=$(cd "$(dirname "$0")" && pwd)/program
flags="-std=c++20 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror"

rm -rf "$scratch"
mkdir -p "$scratch"
cd "$scratch"

configure() {  # FOLDER OPTION...
    local folder=$1
    shift
    cmake -S "$program" -B "$folder" -G Ninja -DCMAKE_CXX_COMPILER="$cxx" "$@"
}
refused() {  # TEXT FOLDER OPTION...: configuring fails and says TEXT
    local text=$1
    shift
    if configure "$@" >log 2>&1; then echo "accepted: $*"; exit 1; fi
    grep -q "$text" log || { cat log; echo "not said: $text"; exit 1; }
    echo "refused as it should be: $text"
}

case $way in
    package)
        cmake --install "$build" --prefix "$scratch/installed" >/dev/null
        # moved: nothing in the install may name the place it was made for
        mv installed moved
        if grep -rq -e "$scratch" -e "$source" moved; then echo "absolute paths in the install"; exit 1; fi
        configure out -DWAY=package -DCMAKE_PREFIX_PATH="$scratch/moved"
        cmake --build out
        ./out/program
        configure tls -DWAY=package -DCOMPONENT=tls -DCMAKE_PREFIX_PATH="$scratch/moved"
        cmake --build tls
        ./tls/tls_program
        refused "unknown component 'mpi'" refused-component \
            -DWAY=package -DCOMPONENT=mpi -DCMAKE_PREFIX_PATH="$scratch/moved"
        refused "version" refused-version \
            -DWAY=package -DVERSION=0.2 -DCMAKE_PREFIX_PATH="$scratch/moved"
        ;;
    subdirectory)
        configure out -DWAY=subdirectory -DSOURCE="$source"
        cmake --build out
        ./out/program
        # no tests, no examples, no install rules in somebody else's build
        if [ "$(cd out && ctest -N | sed -n 's/^Total Tests: //p')" != 0 ]; then echo "tests leaked"; exit 1; fi
        cmake --install out --prefix "$scratch/installed"
        if [ -e installed/include ]; then echo "install rules leaked"; exit 1; fi
        ;;
    pkgconfig)
        cmake --install "$build" --prefix "$scratch/installed" >/dev/null
        export PKG_CONFIG_PATH=$scratch/installed/share/pkgconfig
        # shellcheck disable=SC2046,SC2086
        "$cxx" $flags $(pkg-config --cflags multiprocessing) "$program"/*.cpp -o out \
            $(pkg-config --libs multiprocessing)
        ./out
        # shellcheck disable=SC2046,SC2086
        "$cxx" $flags $(pkg-config --cflags multiprocessing-tls) "$program"/tls/*.cpp -o tls_out \
            $(pkg-config --libs multiprocessing-tls)
        ./tls_out
        ;;
    include)
        # shellcheck disable=SC2086
        "$cxx" $flags -I"$source/include" "$program"/*.cpp -o out
        ./out
        ;;
    *)
        echo "unknown way $way"
        exit 2
        ;;
esac
