"""The tolerances of all tests: one table, with the reason for the size of each.

Float32 has 24 binary digits: near 1 its numbers are 1.2e-7 apart (one unit in the last place). A tolerance that is
"relative" is compared with the size of what is expected, either by numpy's `rtol` or by a factor at its use.
`tests/test_tolerances.py` refuses a number that is written at its use in place of a name from here.
"""

from __future__ import annotations


class Tolerance(float):
    """A largest difference, and the reason for its size."""

    reason: str

    def __new__(cls, value: float, reason: str) -> Tolerance:
        self = super().__new__(cls, value)
        self.reason = reason
        return self


# Whole models
GRAPH = Tolerance(1e-4, "a whole graph in float32: engines sum in different orders, which leaves 1e-6 to 1e-5")
TRAJECTORY = Tolerance(
    1e-3, "a whole trajectory in float32: the differences of its steps add up; the project's promise"
)
TRAJECTORY_STEP = Tolerance(1e-5, "relative, latents during three steps of the tiny model: a graph's differences")
PRIOR_GRAPH = Tolerance(2e-5, "one layer of each of a prior's models: fewer sums than a whole graph has")
PRIOR_EMBEDS = Tolerance(1e-4, "the prior's loop of 25 steps against diffusers; each step limits the embeddings")
DIFFUSERS_FIXTURE = Tolerance(1e-2, "the tolerance of diffusers' own test of the same nine numbers")

# Parts of a graph
REWRITTEN = Tolerance(1e-4, "a rewritten convolution or norm in a whole graph: the sums are taken in another order")
REWRITTEN_KERNEL = Tolerance(1e-5, "sums of a few weights in another order")
REWRITTEN_RELATIVE = Tolerance(1e-5, "relative, one rewritten product: its sum is taken in another order")
FUSED = Tolerance(1e-5, "one fused attention or norm in float32: other sums, and numpy's 1e-7 relative")
FUSED_NORM = Tolerance(1e-6, "one fused norm of few values: two or three roundings of numbers about 1")
NORM_IN_FP16 = Tolerance(2e-3, "normalised values up to 5 in fp16: half a unit in the last place is 2^-9 at 4")
SAME_ARITHMETIC = Tolerance(1e-6, "the same arithmetic in rows or blocks: only the order of a few sums differs")
TWO_ROUNDINGS = Tolerance(3e-7, "relative, a product and a sum: two roundings of 1.2e-7 and numpy's own")
BF16_ROUNDING = Tolerance(4e-3, "relative, bf16 has 8 digits: one unit in the last place is at most 2^-8 = 3.9e-3")
EMPTY_PICTURE = Tolerance(1e-5, "one layer of the picture encoder, run layer by layer against run whole")
MASK_CELLS = Tolerance(1.2e-7, "one unit in the last place: a mask's cells are 0 and 1 in both")
LORA_MERGE = Tolerance(2e-6, "one sum of a weight and a product of small rank: float32 rounds both, values up to 10")

# Steps and schedulers
STEP = Tolerance(2e-5, "one step by hand against a scheduler's own order of operations, on latents up to about 10")
LATENTS = Tolerance(
    2e-5, "latents of a few steps against the same formulas in float64: some ten roundings of values to 10"
)
PIXELS = Tolerance(1e-5, "pixels of [0, 1] decoded from such latents")
SAME_RUN = Tolerance(2e-6, "the same run in another batch or through another door: only the order of few sums differs")
PUT_BACK = Tolerance(1e-6, "kept latents after the mask's two products: two roundings of values about 1")
GOLDEN_STEP = Tolerance(2e-5, "relative, recorded latents of diffusers: torch and numpy round differently in each step")
GOLDEN_FORWARD = Tolerance(5e-6, "relative, noise added once: a few roundings")
FIRST_SIGMA = Tolerance(6e-7, "relative, the factor of the first latents: roots in torch and in numpy; 4.9e-7 seen")
EULER_ZERO_SNR = Tolerance(
    9.5e-5,
    "relative; latents start at sigma 4096 and drop to 5 in one step: float32 rounds at 2.4e-4 there. The sigmas come"
    " from square roots in which torch (MKL) and numpy differ in the last bit; 7.9e-5 seen",
)
FRACTIONAL_TIMESTEP = Tolerance(6.2e-5, "one unit in the last place from 512 to 1023: torch's last bit is not numpy's")
CLEAN = Tolerance(
    5e-5, "the clean sample, recovered: epsilon is divided by sqrt(alphas_cumprod), 0.05 at the first step"
)
CLEAN_PRIOR = Tolerance(
    2e-3, "relative; the last step's weight of the clean sample is 1 up to the rounding of alphas_cumprod: 6e-8 of 4e-5"
)
CLEAN_SMALL = Tolerance(1e-5, "values about 0 of the same")
ONE_DIVISION = Tolerance(1e-6, "relative, a product and the division that undoes it")
ONE_ROUNDING = Tolerance(5e-7, "relative, one rounding: the rest is folded into the coefficients at order 1")
SIGMA_OF_TIMESTEP = Tolerance(2e-3, "relative, sigmas of timesteps that were rounded to whole numbers")
COEFFICIENTS = Tolerance(1e-4, "a trajectory, or sigmas, from the printed coefficients in other orders of operations")
GUIDED = Tolerance(1e-5, "guidance at a scale of up to 7.5 against float64")
INTERVAL = Tolerance(1e-5, "relative, a run whose guided steps change nothing against one without guidance")
INTERVAL_STEP = Tolerance(2e-5, "relative, latents of a few steps against the same formulas in float64")
TILE = Tolerance(1.2e-7, "relative, for each tile that meets in a pixel: a product and a sum, each rounded by 2^-24")
ROUNDED_LEVELS = Tolerance(0.5001, "colours of 0 to 255 from float32 pictures, rounded: half of a level")
BLENDED_LEVELS = Tolerance(0.5001 / 255, "pixels of [0, 1], a blend rounded to one of 255 levels")
BLENDED = Tolerance(1e-6, "pixels of [0, 1], a blend in float32 against float64")
TILED_PICTURE = Tolerance(1e-5, "pixels of [0, 1] from such tiles")

# Schedules
QUANTILE_RANK = Tolerance(2e-5, "a quantile whose rank is computed in float32, as in torch, against float64")
BETAS = Tolerance(3e-7, "relative, betas in float32 against float64: two roundings")
BETAS_OF_ROOTS = Tolerance(5e-7, "relative, the same through a square: three roundings")
COSINE_ALPHAS = Tolerance(1e-4, "relative, products of up to 900 factors in float32 against the closed formula")
FIRST_ALPHA = Tolerance(1e-6, "relative, one alpha before and after the rescaling: a few roundings")
TIMESTEP = Tolerance(1e-3, "timesteps of 0 to 999 through the logarithm of their sigma and back: float32 sigmas")
FLOAT64 = Tolerance(1e-14, "float64 has 53 binary digits, 2.2e-16 near 1: some tens of roundings")
FLOAT64_SUM = Tolerance(1e-13, "the same for values of some tens")
FLOAT64_POWER = Tolerance(1e-12, "relative, the same through a seventh root and a seventh power")
FOLDED_TABLE = Tolerance(1e-11, "a table of coefficients, folded, in float64: weights of up to a thousand cancel")

# Pictures and random numbers
PICTURE_TO_EIGHT_BIT = Tolerance(1e-4, "pixels of 0 to 255 through [-1, 1] and back in float32")
CLIP_PIXELS = Tolerance(1e-5, "normalised pixels: a product, a difference and a quotient of numbers about 1")
FIRST_FRAME = Tolerance(2, "colours of 0 to 255, a flat frame: lossy WebP rounds")
JPEG = Tolerance(3, "colours of 0 to 255, a flat JPEG: its colour space and quantisation round")
JPEG_QUARTERS = Tolerance(12, "colours of 0 to 255, a JPEG of four flat quarters, whose edges cross its blocks")
TORCH_NORMALS = Tolerance(
    1e-6, "torch's logarithm, sine and cosine differ from numpy's in the last bit or two; 4.8e-7 seen"
)

# Statistics
STANDARD_ERRORS = Tolerance(
    3, "standard errors of a mean or a deviation of normal numbers: 1 sample in 370 is further off, and seeds are fixed"
)
FRECHET = Tolerance(1e-12, "a Fréchet distance in float64, of 0 or relative: a root of a product of small matrices")
FRECHET_FEW = Tolerance(1e-5, "the same of fewer samples than features: 36 eigenvalues of 0 come out as 1e-14")
FRECHET_SAMPLES = Tolerance(1.2e-2, "relative, of two samples of 200,000: three standard errors of 0.4 %")

# Comparisons and training
SSIM = Tolerance(1e-12, "the structural similarity in float64: roundings of 1e-16 in a variance, next to C2 = 9e-4")
DECIBELS = Tolerance(1e-5, "dB: float32 values up to 10 round the difference of 0.02 to 0.25 between them; 4e-6 seen")
MEAN_OF_LEVELS = Tolerance(1.5e-5, "colours of 0 to 255, a difference of float32 pictures: each is rounded by 2^-24")
SIXTEEN_BIT_LEVELS = Tolerance(
    0.504 / 65535,
    "pixels of [0, 1], rounded to one of 65535 levels: half of one, and two roundings of 0.002 in float32",
)
FOLDED_MEAN = Tolerance(1e-4, "the mean of latents after their shift was folded into float32 weights")
FOLDED_SPREAD = Tolerance(1e-3, "the standard deviation of latents after their scale was folded into float32 weights")
FOLDED_PICTURE = Tolerance(1e-4, "pictures of [-1, 1] before and after the folding, decoded in float32")
SPATIAL_NORM = Tolerance(1e-5, "a spatial norm in float32 against diffusers' own class")
