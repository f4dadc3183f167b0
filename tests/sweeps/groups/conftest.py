"""The same searches are restarted many times here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from posteriors import remembered_posteriors


@pytest.fixture(autouse=True, scope="package")
def _posteriors() -> Iterator[None]:
    with remembered_posteriors():
        yield
