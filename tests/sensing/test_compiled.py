"""Compiled draws against the numpy streams: the same integers, normals to rounding."""

import numpy as np
import pytest
from scipy import stats

from flatdist.sensing.draws import Stream
from flatdist.sensing.draws.compiled import fill_indices, fill_normals, fill_words
from flatdist.sensing.draws.philox import words as philox_words

KEY = (0x12345678, 0x9ABCDEF0)


def drawn_words(first_step, steps, blocks):
    words = np.zeros((4, steps * blocks), dtype=np.uint32)
    fill_words(np.array(KEY, dtype=np.uint32), first_step, steps, blocks, words)
    return words


@pytest.mark.parametrize(("steps", "blocks"), [(1, 1), (1, 2500), (5, 13), (16, 13), (256, 1), (3, 7)])
@pytest.mark.parametrize("first_step", [0, 123_456, 2**32 - 256])
def test_words_are_those_of_the_stream(steps, blocks, first_step):
    ours = drawn_words(first_step, steps, blocks).reshape(4, steps, blocks).transpose(1, 2, 0).reshape(steps, -1)
    np.testing.assert_array_equal(ours, philox_words(KEY, first_step + np.arange(steps), 4 * blocks))


@pytest.mark.parametrize("bound", [1, 2, 67, 1200, 2**31 - 1])
def test_indices_are_those_of_the_stream(bound):
    steps, blocks, count = 16, 13, 50
    indices = np.zeros(4 * steps * blocks, dtype=np.int32)
    fill_indices(drawn_words(7, steps, blocks), steps * blocks, bound, indices)
    expected = Stream(KEY).indices(7 + np.arange(steps), count, bound)
    np.testing.assert_array_equal(indices.reshape(steps, -1)[:, :count], expected)


def exact_normals(words):
    """Box and Muller in long double where there is one, from words (4, count); (count, 4)."""
    wide = words.astype(np.longdouble)
    uniform = (wide + 0.5) * np.longdouble(2.0) ** -32
    radius = np.sqrt(-2 * np.log(uniform[0::2]))
    # The angle counts from the nearest quarter turn, so that sine and cosine see small arguments only.
    quarter = np.round(uniform[1::2] * 4)
    rest = (uniform[1::2] - quarter / 4) * (8 * np.arctan(np.longdouble(1)))
    sine, cosine = np.sin(rest), np.cos(rest)
    turned_cosine = np.choose(quarter.astype(int) % 4, [cosine, -sine, -cosine, sine])
    turned_sine = np.choose(quarter.astype(int) % 4, [sine, cosine, -sine, -cosine])
    return np.stack([radius[0] * turned_cosine[0], radius[0] * turned_sine[0],
                     radius[1] * turned_cosine[1], radius[1] * turned_sine[1]], axis=-1)  # fmt: skip


def awkward_words():
    """Words where a careless logarithm, sine or cosine loses its accuracy."""
    near = np.arange(-512, 512)
    radii = np.concatenate([near % 2**32, 0xB504F333 + near, 2**31 + near, 2**24 + near])
    angles = np.concatenate([(turn << 29) + np.arange(-256, 256) for turn in range(8)])
    rng = np.random.default_rng(0)
    radii = np.concatenate([radii, rng.integers(0, 2**32, 4096)])
    angles = np.resize(angles, len(radii))
    return np.stack([radii, angles, rng.permutation(radii), rng.permutation(angles)]).astype(np.int64).astype(np.uint32)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 4e-7), ("float64", 4e-15)])
def test_normals_are_exact_to_rounding(dtype, tolerance):
    words = awkward_words()
    normals = np.zeros(4 * words.shape[1], dtype=dtype)
    fill_normals(words, words.shape[1], normals)
    exact = exact_normals(words).astype(np.float64)
    error = np.abs(normals.reshape(-1, 4) - exact) / np.maximum(1, np.abs(exact))
    assert error.max() < tolerance
    if dtype == "float64":
        np.testing.assert_allclose(normals.reshape(-1, 4), exact, rtol=2e-14, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_draw_has_the_same_bits_wherever_it_is_drawn(dtype):
    blocks, steps = 13, 16
    together = np.zeros(4 * blocks * steps, dtype=dtype)
    fill_normals(drawn_words(100, steps, blocks), blocks * steps, together)
    for step in range(steps):
        alone = np.zeros(4 * blocks, dtype=dtype)
        fill_normals(drawn_words(100 + step, 1, blocks), blocks, alone)
        np.testing.assert_array_equal(alone, together.reshape(steps, -1)[step])


def test_normals_are_standard_normal():
    blocks = 25_000
    normals = np.zeros(4 * blocks, dtype=np.float32)
    fill_normals(drawn_words(0, 1, blocks), blocks, normals)
    assert stats.kstest(normals, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(normals[0::2], normals[1::2])[0, 1]) < 0.02
