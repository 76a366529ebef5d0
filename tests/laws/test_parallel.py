"""Law 6 on several devices: devices and processes change the training time of a population, not its weights."""

from functools import cache
from itertools import product

import chex
import jax
import numpy as np
import pytest

import icl_gd
from icl_gd import LinearRegression, TrainSettings, TransformerConfig, tokens
from icl_gd.training import in_context, mesh, population
from icl_gd.training.mesh import Placement
from icl_gd.training.problem import learning_problem

TASK = LinearRegression(2, 1, 3)
MODELS = {
    "gram": TransformerConfig(3, n_layers=2, init_scale=1.0),
    "tokens": TransformerConfig(3, init_scale=1.0, clip=1.0),
}
# conftest gives two CPU devices
PLACEMENTS = [Placement("jit", 2, 1), Placement("jit", 1, 2), Placement("pmap", 2, 1), Placement("pmap", 1, 2)]


def settings(share, **changes):
    return TrainSettings(
        **{"steps": 6, "batch_size": 16, "learning_rate": 1e-2, "clip": 1.0, "share_batches": share, **changes}
    )


@cache
def initial_population(model, settings):
    """The population at step 0, on the host, and its MemberSpecs."""
    state = mesh.on_host(in_context.initialise(model, settings, 0, 4))
    return state, population.member_specs(0, 4, settings, {"init_scale": 1.0})


def trained(model, settings, placement, side_by_side=True):
    draw, loss = learning_problem(TASK, model, tokens.concatenated(2, 1), settings)
    chunk = population.make_chunk(draw, loss, settings, placement, side_by_side)
    state, members = initial_population(model, settings)
    state = jax.tree.map(np.copy, state)  # `run_chunks` donates the state
    state = population.PopulationState(placement.device_put(state.member), placement.device_put(state.step, mesh.ALL))
    members = placement.device_put(members)
    losses = []
    state = population.run_chunks(chunk, state, members, 6, 3, lambda state, loss: losses.append(np.asarray(loss)))
    return mesh.on_host(state.member), np.concatenate(losses), chunk


# Every case compiles a program for each placement.
SLOW = {("gram", False), ("tokens", True)}


@pytest.mark.parametrize(
    ("model", "share"),
    [
        pytest.param(model, share, marks=pytest.mark.slow if (model, share) in SLOW else ())
        for model, share in product(MODELS, (True, False))
    ],
)
def test_every_placement_trains_the_same_population(model, share):
    member, losses, _ = trained(MODELS[model], settings(share), Placement())
    assert not np.allclose(losses[:, 0], losses[:, 1], rtol=1e-3)
    for placement in [*PLACEMENTS, Placement()]:
        other, other_losses, chunk = trained(MODELS[model], settings(share), placement, side_by_side=False)
        np.testing.assert_allclose(other_losses, losses, rtol=1e-5, err_msg=str(placement))
        chex.assert_trees_all_close(other.params, member.params, rtol=1e-7, atol=6e-6, custom_message=str(placement))
        if placement.mode != "pmap":  # under pmap, another sharding may compile again without a new trace
            assert chunk._cache_size() == 1, placement


def test_the_largest_legal_mesh_is_taken():
    cases = [
        # (members, batch size, shared batches, devices), (mode, member axis, data axis)
        ((10, 2048, True, 2), ("jit", 1, 2)),
        ((10, 2048, False, 2), ("jit", 2, 1)),
        ((1, 2048, False, 8), ("jit", 1, 8)),
        ((6, 64, False, 8), ("jit", 2, 4)),
        ((10, 2048, True, 1), ("none", 1, 1)),
        ((3, 9, True, 2), ("none", 1, 1)),
        ((3, 9, False, 4), ("jit", 3, 1)),
        ((10_000, 2048, False, 64), ("jit", 16, 4)),
        ((10_000, 2048, True, 64), ("jit", 16, 4)),
        ((32, 2048, True, 2), ("jit", 1, 2)),
    ]
    for sizes, (mode, member, data) in cases:
        assert mesh.place("auto", *sizes) == Placement(mode, member, data), sizes
        assert mesh.place("none", *sizes) == Placement()
    assert mesh.place("pmap", 8, 2048, False, 8) == Placement("pmap", 8, 1)
    assert mesh.place("pmap", 3, 2048, False, 8) == Placement("pmap", 1, 8)


def test_sizes_that_do_not_divide_name_the_nearest_that_do():
    for mode in ("jit", "pmap"):
        with pytest.raises(ValueError, match=r"among 8 devices; use 8 or 16 members, or batches of 96 or 104"):
            mesh.place(mode, 9, 99, False, 8)
    with pytest.raises(ValueError, match="must be one of auto, none, jit, pmap"):
        mesh.place("pmp", 9, 99, False, 8)


@pytest.mark.parametrize("mode", ["none", "pmap"])
def test_several_processes_need_a_mesh(mode, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="supports only one process, but there are 2; use 'auto' or 'jit'"):
        mesh.place(mode, 8, 64, False, 8)


@pytest.mark.parametrize("parallel", ["none", "jit", "pmap"])
@pytest.mark.parametrize("share", [True, False])
def test_a_diverging_member_is_frozen_and_nobody_else_notices(share, parallel, tmp_path):
    """One learning rate overflows after a few steps, the other does not."""

    def run(rates, **options):
        return icl_gd.train(
            TASK,
            MODELS["gram"],
            settings(share, learning_rate=rates, steps=12),
            seeds=2,
            parallel=parallel,
            chunk_steps=2,
            **options,
        )

    calm = run((1e-2, 2e-2))
    wild = run((1e-2, 1e12), checkpoints=tmp_path)
    np.testing.assert_array_equal(calm.diverged_at, -1)
    assert wild.diverged_at[:2].tolist() == [-1, -1]
    assert all(0 < step < 6 for step in wild.diverged_at[2:].tolist())
    chex.assert_trees_all_equal(calm.combination(0).params, wild.combination(0).params, strict=True)
    chex.assert_tree_all_finite(wild.params)
    saved = icl_gd.load(tmp_path)
    np.testing.assert_array_equal(saved.diverged_at, wild.diverged_at)
    np.testing.assert_array_equal(saved.skipped, [0, 0, population.PATIENCE, population.PATIENCE])
    assert [point["learning_rate"] for point in saved.swept] == [1e-2, 1e12]


def test_a_sweep_is_its_runs():
    """The combinations are the product of all tuples, the last varying fastest; each equals a run with its values."""
    model = TransformerConfig(3, init_scale=(1.0, 0.5))
    swept = icl_gd.train(TASK, model, settings(False, learning_rate=(1e-2, 3e-2), beta1=(0.5, 0.9)), seeds=2)
    assert len(swept) == 2 * len(swept.swept) == 16
    assert swept.swept[1] == {"learning_rate": 1e-2, "beta1": 0.5, "init_scale": 0.5}
    for i, point in enumerate(swept.swept):
        alone = icl_gd.train(
            TASK,
            TransformerConfig(3, init_scale=point["init_scale"]),
            settings(False, learning_rate=point["learning_rate"], beta1=point["beta1"]),
            seeds=2,
        )
        assert alone.swept == ({},)
        chex.assert_trees_all_close(swept.combination(i).params, alone.params, rtol=1e-7, atol=6e-6)


def test_initial_scales_are_swept_over_in_the_token_form_too():
    model = TransformerConfig(3, init_scale=(1.0, 0.5), clip=1.0)
    swept = icl_gd.train(TASK, model, settings(False), seeds=1)
    alone = icl_gd.train(TASK, TransformerConfig(3, init_scale=0.5, clip=1.0), settings(False), seeds=1)
    chex.assert_trees_all_close(swept.combination(1).params, alone.params, rtol=1e-7, atol=6e-6)
