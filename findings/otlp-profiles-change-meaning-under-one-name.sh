#!/usr/bin/env bash
# Two releases of opentelemetry-proto read the same profile differently, and neither reports an error.
#
# opentelemetry.proto.profiles.v1development.Sample had the fields stack_index 1, values 2, attribute_indices 3, link_index 4,
# timestamps_unix_nano 5 up to 1.42, and from 1.43 on stack_index 1, attribute_indices 2, link_index 3, values 4, timestamps 5. The
# package's name, the messages' names and the endpoint's path are the same. Packed integers fit either, so what one release writes the
# other reads without complaint: the values are attributes, or the reverse. Sender and receiver have to agree on a release; a program
# that only asks for "opentelemetry-proto>=1" writes whatever its installation has. Seen with 1.42.1 and 1.43.0 from PyPI.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for release in 1.42.1 1.43.0; do
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$folder/$release" "opentelemetry-proto==$release"
done
cat >"$folder/sample.py" <<'PYTHON'
import sys

from opentelemetry.proto.profiles.v1development.profiles_pb2 import Sample

if sys.argv[1] == "write":
    sample = Sample(stack_index=7, attribute_indices=[1, 2], values=[1_000_000])
    sys.stdout.buffer.write(sample.SerializeToString())
else:
    sample = Sample.FromString(sys.stdin.buffer.read())
    print("values", list(sample.values), "attribute_indices", list(sample.attribute_indices), "link_index", sample.link_index)
PYTHON
for writer in 1.42.1 1.43.0; do
    PYTHONPATH=$folder/$writer python3 "$folder/sample.py" write >"$folder/bytes"
    for reader in 1.42.1 1.43.0; do
        PYTHONPATH=$folder/$reader python3 "$folder/sample.py" read <"$folder/bytes" >"$folder/$writer-$reader"
        echo "written with $writer, read with $reader: $(cat "$folder/$writer-$reader")"
    done
done
cmp "$folder/1.42.1-1.42.1" "$folder/1.43.0-1.43.0"
! grep -q 'values \[1000000\]' "$folder/1.42.1-1.43.0" "$folder/1.43.0-1.42.1"
