#!/bin/bash
# SPDX-License-Identifier: BSL-1.0
#
# check.sh COMPILER FLAGS FILE: the file must fail to compile, and its first error must match the
# regular expression in the file's first line, "// expect: REGEX". FLAGS is one argument. All that
# the compiler says must fit on a screen.

compiler=$1 flags=$2 file=$3 most=60

expect=$(sed -n '1s,^// expect: ,,p' "$file")
if [ -z "$expect" ]; then
    echo "$file: the first line is not '// expect: REGEX'"
    exit 2
fi
# shellcheck disable=SC2086  # several flags in one argument
if said=$("$compiler" $flags -fsyntax-only "$file" 2>&1); then
    echo "$file: compiles"
    exit 1
fi
first=$(grep -m1 -E '(^|[ :])(fatal )?error:' <<<"$said")
if ! grep -qE -- "$expect" <<<"$first"; then
    printf '%s: the first error is\n%s\nand not\n%s\n' "$file" "$first" "$expect"
    exit 1
fi
errors=$(grep -cE '(^|[ :])(fatal )?error:' <<<"$said")
lines=$(wc -l <<<"$said")
if [ "$errors" -gt 1 ] || [ "$lines" -gt "$most" ]; then
    printf '%s: %s errors in %s lines, one in %s wanted\n%s\n' "$file" "$errors" "$lines" "$most" "$said"
    exit 1
fi
echo "$file: $first"
