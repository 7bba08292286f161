"""The tests of the tokenizer can fail."""

from pathlib import Path

import pytest

from tests.mutations import MUTATIONS, survives


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_fault_is_seen(name: str, tmp_path: Path) -> None:
    assert survives(MUTATIONS[name], tmp_path) is None
