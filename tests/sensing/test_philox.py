"""The generator: known answers, the same integers in numpy and torch, and the distributions built on them."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from flatdist.sensing.draws import Stream, stream_key
from flatdist.sensing.draws import tensor as tensor_draws
from flatdist.sensing.draws.philox import philox4x32, words

# Known answers of the Random123 distribution for philox4x32-10: counter, key, output.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(counter, key, expected):
    output = philox4x32(tuple(np.array([c], dtype=np.uint64) for c in counter), key)
    assert tuple(int(word[0]) for word in output) == expected


def test_torch_draws_the_same_integers():
    keys = [stream_key("problem", replicate, "batch") for replicate in range(3)]
    steps = np.array([0, 1, 7, 2**31, 2**32 - 1])
    ours = tensor_draws.words(torch.tensor(keys), torch.tensor(steps), 11).numpy()
    for column, key in enumerate(keys):
        np.testing.assert_array_equal(ours[:, column], words(key, steps, 11))
        indices = tensor_draws.indices_of(tensor_draws.words(torch.tensor(keys), torch.tensor(steps), 11), 1000).numpy()
        np.testing.assert_array_equal(indices[:, column], Stream(key).indices(steps, 11, 1000))
        normals = tensor_draws.normals(torch.tensor(keys), torch.tensor(steps), 11).numpy()
        np.testing.assert_allclose(normals[:, column], Stream(key).normals(steps, 11), rtol=1e-13, atol=1e-14)


def test_draws_of_many_steps_are_few_operations():
    """Each is a launch on a GPU, in every chunk of steps."""
    launched = []

    class Launches(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            if not operation.is_view:
                launched.append(operation)
            return operation(*args, **(kwargs or {}))

    with Launches():
        tensor_draws.words(torch.zeros(6, 2, dtype=torch.int64), torch.arange(64), 50)
    assert len(launched) < 100


def test_any_part_of_a_stream_can_be_read_alone():
    stream = Stream.named("cell", 0, "measurements")
    whole = stream.normals(np.arange(20), 30)
    np.testing.assert_array_equal(stream.normals(np.array([13, 4]), 30), whole[[13, 4]])
    np.testing.assert_array_equal(stream.normals(np.arange(20), 8), whole[:, :8])


def test_streams_differ_by_name_replicate_and_purpose():
    keys = {
        stream_key(name, replicate, purpose)
        for name in ("a", "b")
        for replicate in (0, 1, 11)
        for purpose in ("batch", "label_noise")
    }
    assert len(keys) == 12


def test_normals_are_standard_normal_and_independent():
    draws = Stream.named("normality", 0, "measurements").normals(np.arange(400), 500)
    assert stats.kstest(draws.ravel(), "norm").pvalue > 1e-3
    correlation = np.corrcoef(draws[:, :20], rowvar=False) - np.eye(20)
    assert np.abs(correlation).max() < 5 / np.sqrt(len(draws))


def test_indices_and_signs_are_uniform():
    stream = Stream.named("uniformity", 0, "batch")
    counts = np.bincount(stream.indices(np.arange(1000), 100, 37).ravel(), minlength=37)
    assert len(counts) == 37
    assert stats.chisquare(counts).pvalue > 1e-3
    signs = stream.signs(np.arange(1000), 100)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(signs.mean()) < 5 / np.sqrt(signs.size)
