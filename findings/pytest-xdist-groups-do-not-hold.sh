#!/usr/bin/env bash
# With pytest 9.2, pytest-xdist 3.8 spreads the tests of one xdist_group over its workers, without a word.
#
# --dist loadgroup works by a suffix: xdist's worker writes "@GROUP" into each test's `_nodeid`, and its scheduler keeps together what has
# the same. In pytest 9.2 a node's id is no longer read from that attribute, so the suffix is lost and every test is by itself, as with
# --dist load. xdist 3.8.0 may be installed with any pytest from 7 on, nothing fails and nothing warns: tests that share a port, a
# database or an expensive fixture of their module run at the same time, or make it once in each worker. --dist loadfile and loadscope go
# by the id as it is, and hold. Seen with pytest-xdist 3.8.0 and pytest 9.2.0 from PyPI; with pytest 8.4.2 groups hold.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/test_group.py" <<'PYTHON'
import os
import time

import pytest


@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(12))
def test_in_the_group(number):
    time.sleep(0.1)
    with open(os.environ["SEEN"], "a") as seen:
        seen.write(os.environ["PYTEST_XDIST_WORKER"] + "\n")
PYTHON
for release in 8.4.2 9.2.0; do
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$folder/$release" \
        "pytest==$release" pytest-xdist==3.8.0
    (cd "$folder" && SEEN=$folder/seen-$release PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 PYTHONPATH=$folder/$release \
        python3 -m pytest -p xdist -q -n 2 --dist loadgroup -p no:cacheprovider --import-mode=importlib test_group.py \
        >"$folder/said-$release")
    echo "pytest $release: 12 tests of one group ran in $(sort -u "$folder/seen-$release" | wc -l) workers; warnings: $(grep -ci warning "$folder/said-$release" || true)"
done
[ "$(sort -u "$folder/seen-8.4.2" | wc -l)" = 1 ]
[ "$(sort -u "$folder/seen-9.2.0" | wc -l)" = 2 ]
