"""Every family of models computes in a pack what PEFT computes on it alone, and is documented as it is."""

import pytest

from tests.models.checks import check_family, engine_of
from tests.models.families import FAMILIES
from tests.models.table import DOCUMENT, refused_row, row
from trainable.errors import ModelError

_NAMES = [pytest.param(n, marks=() if f.quick else pytest.mark.slow) for n, f in FAMILIES.items()]


@pytest.mark.parametrize("name", _NAMES)
def test_packed_training_equals_peft(name: str) -> None:
    family = FAMILIES[name]
    if family.refused:
        with pytest.raises(ModelError, match=family.refused) as error:
            engine_of(family)
        assert refused_row(name, error.value) in DOCUMENT.read_text(encoding="utf-8")
    else:
        engine = check_family(family)
        assert row(name, engine) in DOCUMENT.read_text(encoding="utf-8")


def test_there_are_enough_families() -> None:
    assert len(FAMILIES) >= 60
    assert sum(family.quick for family in FAMILIES.values()) >= 15
