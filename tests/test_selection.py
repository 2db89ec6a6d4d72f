"""Which assets a name on the command line stands for."""

import pytest

import assets  # noqa: F401  (declares them)
from tda_dagster.errors import TdaError
from tda_dagster.execution import _select
from tda_dagster.materialization import STUDY_ASSETS

COSTLY = {name for name, declared in STUDY_ASSETS.items() if declared.on_request}
GROUPS = {name.split("/")[0] for name in STUDY_ASSETS}


def test_nothing_costly_is_made_unasked() -> None:
    assert COSTLY
    assert set(_select(None)) == set(STUDY_ASSETS) - COSTLY


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_a_group_is_what_of_it_belongs_to_every_study(group: str) -> None:
    members = {name for name in STUDY_ASSETS if name.startswith(f"{group}/")}
    assert set(_select([group])) == (members - COSTLY or members)


@pytest.mark.parametrize("name", sorted(COSTLY))
def test_what_is_costly_can_be_asked_for_by_name(name: str) -> None:
    assert _select([name]) == [name]


def test_a_name_of_nothing_is_refused() -> None:
    with pytest.raises(TdaError, match="'nothing' is neither"):
        _select(["base", "nothing"])
