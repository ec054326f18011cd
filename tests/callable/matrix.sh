#!/bin/bash
# SPDX-License-Identifier: BSL-1.0
#
# matrix.sh SOURCE SCRATCH SUBSET [CXX...]: builds and runs program.cpp in every way that could
# spoil the identity of a function. SUBSET: "few" (under a minute) or "all". Compilers and linkers
# that are not installed are left out and said so.
set -u
source=$1 scratch=$2 subset=$3
shift 3
[ $# -gt 0 ] || set -- g++ clang++
here=$source/tests/callable
rm -rf "$scratch"
mkdir -p "$scratch"
ran=0 failed=0 left_out=0

one() {  # LIBRARY(yes/no) COMPILER "COMPILE FLAGS" "LINK FLAGS"
    local library=$1 cxx=$2 flags="-std=c++20 -I$source/include $3" link=$4
    local name="$2 $3 $4" dir=$scratch/$ran defines="" plugin=""
    local shared_link=${link//-no-pie/}
    shared_link=${shared_link//-pie/}
    ran=$((ran + 1))
    mkdir -p "$dir"
    if [ "$library" = yes ]; then
        # shellcheck disable=SC2086
        { $cxx $flags -fPIC -shared -DNUMBER=1 "$here/library.cpp" $shared_link -o "$dir/libtasks.so" &&
            $cxx $flags -fPIC -shared -DNUMBER=2 "$here/library.cpp" $shared_link -o "$dir/plugin.so"
        } >"$dir/log" 2>&1 || { echo "FAILED to build: $name"; cat "$dir/log"; failed=$((failed + 1)); return; }
        defines="-DWITH_LIBRARY"
        link="$link -L$dir -Wl,-rpath,$dir -ltasks -ldl"
        plugin=$dir/plugin.so
    fi
    # shellcheck disable=SC2086
    $cxx $flags $defines "$here/program.cpp" "$here/other_unit.cpp" $link -pthread -o "$dir/program" >"$dir/log" 2>&1 ||
        { echo "FAILED to build: $name"; cat "$dir/log"; failed=$((failed + 1)); return; }
    if timeout 30 "$dir/program" $plugin >"$dir/log" 2>&1; then
        echo "ok: $name: $(tail -n 1 "$dir/log")"
    else
        echo "FAILED: $name"
        cat "$dir/log"
        failed=$((failed + 1))
    fi
    rm -rf "$dir"
}
have() { command -v "$1" >/dev/null 2>&1 || { echo "left out, not installed: $1"; left_out=$((left_out + 1)); return 1; }; }

for cxx in "$@"; do
    have "$cxx" || continue
    one yes "$cxx" "-O0 -fPIE" "-pie"
    one no "$cxx" "-O2 -fno-pie" "-static"
    [ "$subset" = all ] || { one yes "$cxx" "-O2 -fno-pie" "-no-pie"; continue; }
    one yes "$cxx" "-O2 -fPIE" "-pie"
    for o in -O0 -O2; do
        one yes "$cxx" "$o -fno-pie" "-no-pie"
        one no "$cxx" "$o -fPIE" "-static-pie"
    done
    one no "$cxx" "-O0 -fno-pie" "-static"
    one yes "$cxx" "-O2 -fPIE -fvisibility=hidden -fvisibility-inlines-hidden" "-pie"
    one yes "$cxx" "-O2 -fPIE" "-pie -rdynamic"
    one yes "$cxx" "-O2 -fPIE" "-pie -s"
    one yes "$cxx" "-O2 -fPIE" "-pie -Wl,--build-id=none"
    one yes "$cxx" "-O2 -fPIE" "-pie -Wl,-z,norelro"
    one yes "$cxx" "-O2 -fPIE" "-pie -Wl,-z,now -Wl,-z,noseparate-code"
    one yes "$cxx" "-O2 -fPIE -ffunction-sections -fdata-sections" "-pie -Wl,--gc-sections"
    one yes "$cxx" "-O2 -fPIE -fmerge-all-constants" "-pie"
    one yes "$cxx" "-O1 -fPIE -fsanitize=address" "-pie -fsanitize=address"
    one yes "$cxx" "-O2 -fPIE" "-pie -Wl,-Bsymbolic"
    if have ld.gold; then
        one yes "$cxx" "-O2 -fPIE -ffunction-sections -fdata-sections" "-pie -fuse-ld=gold -Wl,--icf=all"
        one yes "$cxx" "-O2 -fPIE -ffunction-sections -fdata-sections" "-pie -fuse-ld=gold -Wl,--icf=safe"
    fi
    if have ld.lld; then
        one yes "$cxx" "-O2 -fPIE -ffunction-sections -fdata-sections" "-pie -fuse-ld=lld -Wl,--icf=all"
        one yes "$cxx" "-O2 -fPIE -ffunction-sections -fdata-sections" "-pie -fuse-ld=lld -Wl,--icf=all,--ignore-data-address-equality"
        one yes "$cxx" "-O2 -fno-pie" "-no-pie -fuse-ld=lld"
    fi
    if have ld.mold; then
        one yes "$cxx" "-O2 -fPIE -ffunction-sections -fdata-sections" "-pie -fuse-ld=mold -Wl,--icf=all"
    fi
    case $cxx in
        *clang*)
            if have ld.lld; then
                one yes "$cxx" "-O2 -fPIE -flto" "-pie -flto -fuse-ld=lld"
                one yes "$cxx" "-O2 -fPIE -flto=thin" "-pie -flto=thin -fuse-ld=lld -Wl,--icf=all"
            fi
            ;;
        *)
            one yes "$cxx" "-O2 -fPIE -flto" "-pie -flto"
            one no "$cxx" "-O2 -fno-pie -flto" "-static -flto"
            ;;
    esac
done
[ "$subset" = all ] || one yes "$1" "-O2 -fPIE -flto" "-pie -flto"
echo "$ran ways to build, $failed failed, $left_out tools left out"
[ "$failed" = 0 ] && [ "$ran" != 0 ]
