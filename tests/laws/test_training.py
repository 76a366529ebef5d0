"""Law 6: a population is its members, a resumed run is the uninterrupted one, a broken checkpoint is passed over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import icl_gd
import icl_gd.analysis
from icl_gd import LinearRegression, TrainSettings, TransformerConfig, learners, models
from icl_gd.training import Interrupted, in_context, population

TASK, MODEL = LinearRegression(2, 1, 3), TransformerConfig(3, init_scale=1.0)
SETTINGS = TrainSettings(steps=8, batch_size=16, learning_rate=1e-2, clip=1.0)


def run(**changes):
    return icl_gd.train(TASK, MODEL, SETTINGS, **{"seeds": 3, "chunk_steps": 2, **changes})


def leaves(trained):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(trained.params)]


@pytest.fixture(scope="module")
def whole():
    return run()


def test_resumed_is_uninterrupted_to_the_bit(whole, tmp_path):
    seen, said = [], []
    with pytest.raises(Interrupted) as stop:
        run(checkpoints=tmp_path, stop_requested=lambda: 15 if len(seen) == 1 else None,
            on_chunk=lambda trained, step, loss: seen.append(step))  # fmt: skip
    assert (stop.value.step, stop.value.signal) == (4, 15)
    resumed = run(checkpoints=tmp_path, on_resume=said.append)
    assert said == [4]
    for ours, theirs in zip(leaves(resumed), leaves(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(leaves(icl_gd.load(tmp_path)), leaves(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_member_is_the_run_alone(whole):
    for seed in range(3):
        alone = run(seeds=1, seed=seed)
        for ours, theirs in zip(leaves(alone), leaves(whole), strict=True):
            np.testing.assert_allclose(ours[0], theirs[seed], atol=8 * 1e-6)


def test_shared_batches_are_the_first_members(whole):
    settings = TrainSettings(**{**SETTINGS.__dict__, "share_batches": True})
    shared = icl_gd.train(TASK, MODEL, settings, seeds=3, chunk_steps=2)
    for ours, theirs in zip(leaves(shared), leaves(whole), strict=True):
        np.testing.assert_allclose(ours[0], theirs[0], atol=8 * 1e-6)
        assert not np.allclose(ours[1], theirs[1], atol=1e-5)


def test_one_compilation():
    loss = in_context.squared_error(MODEL, in_context.concatenated(2, 1))
    chunk = population.make_chunk(TASK.sample, loss, SETTINGS)
    keys = population.member_keys(0, 2)
    state = population.start(lambda key: models.init(MODEL, key), SETTINGS, keys)
    population.run_chunks(chunk, state, keys, 8, 2)
    assert chunk._cache_size() == 1


def test_a_flipped_byte_falls_back(tmp_path):
    run(checkpoints=tmp_path, checkpoint_every=4)
    newest = max((p for p in tmp_path.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    for file in newest.rglob("*"):
        if file.is_file() and "/d/" in str(file) and file.stat().st_size:
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 0xFF
            file.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match="checkpoint 8 is unreadable"):
        trained = icl_gd.load(tmp_path)
    for ours, theirs in zip(leaves(trained), leaves(run(seeds=3, chunk_steps=4)), strict=True):
        assert ours.shape == theirs.shape


def test_training_finds_gradient_descent():
    """The main claim in small: trained layers end within one percent of the best gradient step."""
    task = LinearRegression(3, 1, 6, "normal")
    settings = TrainSettings(steps=800, batch_size=256, learning_rate=1e-2, clip=1.0, schedule="cosine")
    trained = icl_gd.train(task, TransformerConfig(4, init_scale=0.1), settings, seeds=2, chunk_steps=800)
    prompts = jax.vmap(task.sample)(jax.random.split(jax.random.key(99), 20_000))
    loss = lambda predict: float(icl_gd.analysis.losses(predict, prompts).mean())
    best = loss(learners.gradient_descent([learners.best_step_size(prompts)]))
    assert max(map(loss, trained.predictors)) < 1.01 * best < 0.5 * loss(learners.zero)


def test_errors():
    with pytest.raises(ValueError, match="d_token"):
        icl_gd.train(TASK, TransformerConfig(7), SETTINGS)
    with pytest.raises(ValueError, match="schedule"):
        TrainSettings(schedule="linear")
    with pytest.raises(FileNotFoundError, match="checkpoints"):
        icl_gd.load("/nonexistent")
    nan = LinearRegression(2, 1, 3, input_scale=float(jnp.nan))
    with pytest.raises(FloatingPointError, match="not finite"):
        icl_gd.train(nan, MODEL, SETTINGS)
