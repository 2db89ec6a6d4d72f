"""Queries that come with the package's ground truth, in place of generated ones."""

from collections.abc import Mapping

import pytest
import yaml
from chain.conftest import Study, new_study

from tda_dagster.bench import lay_out_study
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.evaluation.ground_truth import shipped
from tda_dagster.workspace import Workspace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A small study whose model has the shape of the bench's."""
    made = new_study(tmp_path_factory.mktemp("pieces") / "study")
    params = yaml.safe_load((made.root / "params.yaml").read_text())
    params["dataset"]["reference"] |= {"tracks": 8}
    params["model"]["training"] |= {"steps": 2, "frames": 64}
    (made.root / "params.yaml").write_text(yaml.safe_dump(params))
    return made


def write(study: Study, cohort: str, **keys: object) -> None:
    lay_out_study(study.root / "bench")
    found = yaml.safe_load((study.root / "bench" / "cohorts" / "generated.yaml").read_text())
    first: Mapping[str, object] = found["queries"][0]
    declared = {"queries": [dict(first)], "pieces": "ground_truth", "draws_by": "id"} | keys
    (study.root / "cohorts" / f"{cohort}.yaml").write_text(yaml.safe_dump(declared))


def test_a_piece_of_the_package_is_taken_as_it_is(study: Study) -> None:
    write(study, "generated")
    study.run("tda", "materialize", "dataset", "base", "cohort", "--cohort", "generated")
    store = Workspace(study.root).store
    head = store.head("cohort/queries", "generated")
    assert head is not None
    name = "latents/generated-000.safetensors"
    taken = LatentSegments.load(store.artifact(head.digest).path(name))
    truth = shipped("generated")
    assert truth is not None
    assert taken.latents.equal(truth.queries.latents[:1])
    assert taken.captions == truth.queries.captions[:1]


def test_a_piece_that_the_package_does_not_have_is_refused(study: Study) -> None:
    write(study, "mine")
    done = study.run("tda", "materialize", "cohort", "--cohort", "mine", check=False)
    assert done.returncode != 0
    assert "the package has no piece mine-000 of the cohort mine" in done.stdout + done.stderr


def test_a_piece_of_another_prompt_is_refused(study: Study) -> None:
    write(study, "generated", queries=[{"prompt": "Something else", "seed": 11}])
    done = study.run("tda", "materialize", "cohort", "--cohort", "generated", check=False)
    assert done.returncode != 0
    said = " ".join((done.stdout + done.stderr).split())
    assert "piece generated-000 is of the prompt" in said
    assert "leave `pieces` out" in said
