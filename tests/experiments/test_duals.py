"""What modified attention is compared with."""

import pytest

from experiments.analyses.duals import plain_member
from icl_gd import TransformerConfig

SWEPT = [{"model.alpha": alpha, "train.clip": 1.0} for alpha in (0.5, 0.0, -0.5)]


@pytest.mark.parametrize(("fixed", "plain"), [({}, 1), ({"augment_keys": 0.0}, 1), ({"augment_keys": 1.0}, None),
                                              ({"beta": 0.5, "share": 0.5}, None)])  # fmt: skip
def test_plain_softmax_is_where_nothing_is_modified(fixed, plain):
    config = TransformerConfig(3, attention="softmax", reads_query=True, alpha=(0.5, 0.0, -0.5), **fixed)
    assert plain_member(SWEPT, config) == plain
    assert plain_member(SWEPT[:1], config) is None
    assert plain_member([{"train.clip": 1.0}, {"train.clip": 2.0}], config) is None
