"""The measures against closed forms, direct formulas and SciPy's filters."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kandinsky_export.comparison.measures import difference, edge_bands, latents_psnr, picture_psnr, ssim, ssim_map
from tests.tolerances import DECIBELS, FLOAT64_SUM, MEAN_OF_LEVELS, SSIM, STANDARD_ERRORS


def picture(seed: int, height: int = 24, width: int = 31) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (height, width, 3)).astype(np.float32)


class TestPSNR:
    @pytest.mark.parametrize(("offset", "expected"), [(0.1, 20.0), (0.01, 40.0), (-0.5, 20 * math.log10(2))])
    def test_a_constant_offset(self, offset: float, expected: float) -> None:
        want = np.full((8, 8, 3), 0.5)
        assert picture_psnr(want, want + offset) == pytest.approx(expected, abs=FLOAT64_SUM)

    def test_equal_pictures(self) -> None:
        assert picture_psnr(picture(0), picture(0)) == math.inf

    def test_noise_of_a_known_power(self) -> None:
        want = np.full((400, 400, 3), 0.5)
        noise = np.random.default_rng(1).normal(0, 0.02, want.shape)
        standard_error = 10 / math.log(10) * math.sqrt(2 / noise.size)
        expected = -20 * math.log10(0.02)
        assert picture_psnr(want, want + noise) == pytest.approx(expected, abs=STANDARD_ERRORS * standard_error)

    def test_only_the_area_counts(self) -> None:
        want, area = picture(0), np.zeros((24, 31), bool)
        area[4:9, 5:20] = True
        got = np.where(area[..., None], want + 0.1, -7)
        assert picture_psnr(want, got, area) == pytest.approx(20, abs=DECIBELS)

    def test_latents_have_their_span_as_the_peak(self) -> None:
        want = np.random.default_rng(2).normal(0, 3, (1, 4, 8, 8)).astype(np.float32)
        got = want + np.float32(0.25)
        expected = 20 * math.log10((want.max() - want.min()) / 0.25)
        assert latents_psnr(want, got) == pytest.approx(expected, abs=DECIBELS)

    def test_latents_of_chosen_cells(self) -> None:
        want = np.zeros((1, 2, 4, 4), np.float32)
        want[..., 1, 1] = 2
        cells = np.zeros((1, 1, 4, 4), bool)
        cells[..., 1, 1:3] = True
        got = np.where(cells, want + np.float32(0.02), np.float32(99))
        assert latents_psnr(want, got, cells) == pytest.approx(40, abs=DECIBELS)

    def test_constant_latents(self) -> None:
        flat = np.ones((1, 4, 2, 2), np.float32)
        assert latents_psnr(flat, flat) == math.inf
        assert latents_psnr(flat, flat + 1) == pytest.approx(0)


class TestSSIM:
    def test_equal_pictures(self) -> None:
        assert ssim(picture(0), picture(0)) == 1

    @pytest.mark.parametrize(("first", "second"), [(0.2, 0.7), (0.0, 1.0), (0.5, 0.51)])
    def test_flat_pictures_differ_in_luminance_alone(self, first: float, second: float) -> None:
        want, got = np.full((20, 20, 3), first), np.full((20, 20, 3), second)
        expected = (2 * first * second + 1e-4) / (first**2 + second**2 + 1e-4)
        assert ssim(want, got) == pytest.approx(expected, abs=SSIM)

    def test_it_is_symmetric_and_falls_with_noise(self) -> None:
        want = picture(0)
        noise = np.random.default_rng(1).normal(size=want.shape)
        values = [ssim(want, want + strength * noise) for strength in (0.01, 0.05, 0.2, 0.8)]
        assert values == sorted(values, reverse=True)
        assert ssim(want, picture(1)) == ssim(picture(1), want)

    def test_scipys_gaussian_filter_gives_the_same(self) -> None:
        """As scikit-image computes it with gaussian_weights=True and use_sample_covariance=False."""
        filters = pytest.importorskip("scipy.ndimage")
        want, got = picture(0).astype(np.float64), (0.7 * picture(0) + 0.3 * picture(1)).astype(np.float64)

        def mean(values: np.ndarray) -> np.ndarray:
            return np.asarray(filters.gaussian_filter(values, (1.5, 1.5, 0), truncate=3.5, mode="reflect"))

        ux, uy = mean(want), mean(got)
        vx, vy, vxy = mean(want**2) - ux**2, mean(got**2) - uy**2, mean(want * got) - ux * uy
        expected = ((2 * ux * uy + 1e-4) * (2 * vxy + 9e-4)) / ((ux**2 + uy**2 + 1e-4) * (vx + vy + 9e-4))
        np.testing.assert_allclose(ssim_map(want, got), expected, atol=SSIM)

    def test_the_formula_at_one_pixel(self) -> None:
        want, got = picture(0), picture(1)
        y, x = 12, 15
        offsets = np.arange(-5, 6)
        window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
        window /= window.sum()
        a, b = (p[y - 5 : y + 6, x - 5 : x + 6, 1].astype(np.float64) for p in (want, got))
        ma, mb = (window * a).sum(), (window * b).sum()
        va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
        covariance = (window * (a - ma) * (b - mb)).sum()
        luminance = (2 * ma * mb + 1e-4) / (ma**2 + mb**2 + 1e-4)
        structure = (2 * covariance + 9e-4) / (va + vb + 9e-4)
        assert ssim_map(want, got)[y, x, 1] == pytest.approx(luminance * structure, abs=SSIM)

    def test_the_area_chooses_pixels_of_the_map(self) -> None:
        want, got = picture(0), picture(1)
        area = np.zeros((24, 31), bool)
        area[3, 4] = area[20, 30] = True
        values = ssim_map(want, got)
        expected = np.mean([values[3, 4], values[20, 30]])
        assert ssim(want, got, area) == pytest.approx(expected)


class TestEdges:
    def test_bands_of_a_box(self) -> None:
        mask = np.zeros((30, 40), np.float32)
        mask[10:20, 12:30] = 1
        inside, outside = edge_bands(mask, 3)
        expected_inside, expected_outside = mask > 0, np.zeros((30, 40), bool)
        expected_inside[13:17, 15:27] = False
        expected_outside[7:23, 9:33] = True
        expected_outside[10:20, 12:30] = False
        assert np.array_equal(inside, expected_inside)
        assert np.array_equal(outside, expected_outside)

    def test_bands_by_brute_force(self) -> None:
        mask = (np.random.default_rng(0).uniform(size=(17, 19)) > 0.9).astype(np.float32)
        inside, outside = edge_bands(mask, 2)
        for y in range(17):
            for x in range(19):
                near = mask[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
                assert inside[y, x] == (mask[y, x] == 1 and near.min() == 0)
                assert outside[y, x] == (mask[y, x] == 0 and near.max() == 1)

    def test_a_mask_of_everything_has_no_edge(self) -> None:
        inside, outside = edge_bands(np.ones((9, 9), np.float32))
        assert not inside.any()
        assert not outside.any()
        assert difference(picture(0, 9, 9), picture(1, 9, 9), inside) is None

    def test_differences_are_in_levels(self) -> None:
        want = picture(0)
        got = want + np.where(np.arange(31) % 2, 10, -20).astype(np.float32)[:, None] / 255
        area = np.zeros((24, 31), bool)
        area[:, :2] = True
        assert difference(want, got, area) == pytest.approx(15, abs=MEAN_OF_LEVELS)
