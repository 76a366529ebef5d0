"""The analysis of dual models, the unmodified member that modified attention is compared with, and the profile."""

import json

import pytest
from whole import check_what_it_leaves, read  # from this directory

from icl_gd import TransformerConfig
from icl_gd.lab.evaluation.analyses import find
from icl_gd.lab.evaluation.references.one_step import plain_member
from icl_gd.models import Modification

SWEPT = [{"model.alpha": alpha, "train.clip": 1.0} for alpha in (0.5, 0.0, -0.5)]


@pytest.mark.parametrize(
    ("fixed", "plain"),
    [
        ({}, 1),
        ({"augment_keys": 0.0}, 1),
        ({"augment_keys": 1.0}, None),
        ({"negative_weight": 0.5, "negative_fraction": 0.5}, None),
    ],
)
def test_plain_softmax_is_where_nothing_is_modified(fixed, plain):
    modification = Modification(query_damping=(0.5, 0.0, -0.5), **fixed)
    config = TransformerConfig(3, attention="softmax", attend_to_query=True, modification=modification)
    assert plain_member(SWEPT, config) == plain
    assert plain_member(SWEPT[:1], config) is None
    assert plain_member([{"train.clip": 1.0}, {"train.clip": 2.0}], config) is None


def test_heads_are_their_dual_models(dual_models):
    """One step of the dual models gives the output of a causal layer, and so do steps on one demonstration each."""
    metrics = read(dual_models)["metrics"]
    for name in ("dual_error", "dual_distance_at_end"):
        assert len(metrics[name]["per_seed"]) == 2
        assert max(metrics[name]["per_seed"]) < 1e-12, name
    for name, most in find("dual").identities.items():
        assert max(metrics[name]["per_seed"]) <= most


def test_what_a_run_leaves(dual_models):
    check_what_it_leaves(dual_models)


def test_a_profile_says_where_the_seconds_went(dual_models):
    """The profile lists every stage in order, covers all seconds, and counts compilation as a part of each stage."""
    stages = json.loads((dual_models / "profile.json").read_text())
    names = [stage.pop("stage") for stage in stages]
    assert names == ["import", "references", "training", "evaluation", "analysis: dual", "drawing"]
    for stage in stages:
        assert 0 <= stage["lowering"] + stage["xla"] <= stage["seconds"]
        assert (stage["programs"] > 0) == (stage["xla"] > 0)
    assert read(dual_models)["wall_seconds"] <= sum(stage["seconds"] for stage in stages)
    assert stages[names.index("training")]["programs"] > 0
