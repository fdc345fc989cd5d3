import numpy as np

from partial_fc.data.augment import mirror_flags, random_bits

MASK = (1 << 64) - 1


def naive_mix(number):
    number = (number + 0x9E3779B97F4A7C15) & MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & MASK
    return number ^ (number >> 31)


def test_the_hash_is_splitmix64():
    """Its first outputs from the seed 1234567, as published with the reference implementation."""
    state, outputs = 1234567, []
    for _ in range(3):
        outputs.append(naive_mix(state))
        state += 0x9E3779B97F4A7C15
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    key = naive_mix(naive_mix(naive_mix(5) + 7) + 2 * 0x9E3779B97F4A7C15)
    indices = np.array([0, 1, 17_000_000, (1 << 40) + 3])
    expected = [naive_mix((key + int(i) * 0x9E3779B97F4A7C15) & MASK) for i in indices]
    assert random_bits(5, 7, indices, draw=2).tolist() == expected


def test_flags_depend_on_seed_epoch_and_image_alone():
    indices = np.array([5, 900, 17, 3])
    flags = mirror_flags(1, 2, indices)
    assert flags.dtype == bool
    everyone = mirror_flags(1, 2, np.arange(1000))
    np.testing.assert_array_equal(flags, everyone[indices])


def test_flags_are_fair_and_independent():
    n = 20_000
    draws = {(seed, epoch): mirror_flags(seed, epoch, np.arange(n)) for seed in (0, 1) for epoch in (0, 1, 2)}
    five_sigma = 5 * np.sqrt(n) / 2
    for key, flags in draws.items():
        assert abs(flags.sum() - n / 2) < five_sigma
        assert abs((flags[1:] == flags[:-1]).sum() - n / 2) < five_sigma  # neighbours
        for other, other_flags in draws.items():
            if other > key:
                assert abs((flags == other_flags).sum() - n / 2) < five_sigma, (key, other)


def test_every_bit_is_fair_for_every_draw():
    bits = np.stack([random_bits(3, 4, np.arange(4096), draw) for draw in range(4)])
    counts = np.unpackbits(bits.view(np.uint8).reshape(4, 4096, 8), axis=2).sum(1, dtype=np.int64)
    assert (abs(counts - 2048) < 6 * 32).all()  # 256 counts, six standard deviations
    assert len(np.unique(bits)) == bits.size
