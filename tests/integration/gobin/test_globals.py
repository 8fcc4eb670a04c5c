"""The runtime's variables are where the symbols say, also where the code alone tells."""

from __future__ import annotations

import pytest
from gobuild import PARSED_VERSIONS, build

from gotrace.gobin import semtable
from gotrace.gobin.binary import GoBinary
from gotrace.gobin.image import Image

pytestmark = pytest.mark.beside


@pytest.mark.parametrize("version", PARSED_VERSIONS)
def test_code_and_symbols_agree(version: str) -> None:
    binary = GoBinary(Image(build("waits", version, "plain").read_bytes()))
    address = binary.symbols.address("runtime.semtable")
    assert address and address == semtable._by_code(binary.image, binary.table) == binary.semtable


@pytest.mark.parametrize("variant", ["stripped", "pie"])
@pytest.mark.parametrize("version", PARSED_VERSIONS)
def test_the_code_alone_is_enough(version: str, variant: str) -> None:
    binary = GoBinary(Image(build("waits", version, variant).read_bytes()))
    assert binary.stripped and binary.semtable and binary.wait_layout.knows_channels
    # By DWARF and by the table.
    assert binary.wait_layout == GoBinary(Image(build("waits", version, "plain").read_bytes())).wait_layout
