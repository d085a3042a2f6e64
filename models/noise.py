"""Random numbers of a training batch that do not depend on who computes which part of it.

Hop 8 of the tour, inside every model's loss. A batch may be computed in parts: by several processes, or one microbatch after
the other. With :class:`RowGenerator` a row gets the numbers that belong to its place in the whole batch, whatever the part; with
a plain ``torch.Generator`` the functions here draw as torch does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


class RowGenerator(torch.Generator):
    """Draws for some rows of a batch; on the CPU.

    Invariant: the k-th draw of a row depends on seed, step, k, the row's place and the size of the whole batch, and on nothing
    else. The models here ask for the same draws in the same order, whatever the number of rows.

    Used as a plain generator it draws from a stream of its own, different for each step and first row.
    """

    def __new__(cls, **_: Any) -> RowGenerator:
        """Torch's constructor takes a device and nothing else."""
        return super().__new__(cls)

    def __init__(self, *, seed: int, step: int, rows: range, num_rows: int) -> None:
        """Begin with the first draw.

        Args:
            seed: of the learner.
            step: of the learner; every step has its own numbers.
            rows: places in the whole batch of the rows that are computed with this generator.
            num_rows: size of the whole batch.
        """
        self.rows = rows
        self.num_rows = num_rows
        self._seed = seed
        self._step = step
        self._num_draws = 0
        self.manual_seed(_word(seed, step, rows.start, num_rows))

    def by_row(self, shape: Sequence[int], *, is_normal: bool) -> torch.Tensor:
        """A draw for each row: ``shape`` begins with the number of rows."""
        if shape[0] != len(self.rows):
            raise ValueError(f"a draw of shape {tuple(shape)} for {len(self.rows)} rows; expected one row each")
        words = self._next_draw().generate_state(self.num_rows, np.uint64)
        drawn, generator = torch.empty(tuple(shape)), torch.Generator()
        for row, place in zip(drawn, self.rows, strict=True):
            generator.manual_seed(int(words[place]))
            row.normal_(generator=generator) if is_normal else row.uniform_(generator=generator)
        return drawn

    def order(self) -> torch.Tensor:
        """The rows' places in a random order of the whole batch, int64 [rows]."""
        shuffled = np.random.default_rng(self._next_draw()).permutation(self.num_rows)
        return torch.from_numpy(shuffled[self.rows.start : self.rows.stop])

    def _next_draw(self) -> np.random.SeedSequence:
        self._num_draws += 1
        return np.random.SeedSequence([self._seed, self._step, self._num_draws])


def normal(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Standard normal numbers of ``shape`` [B, ...], float32, on the generator's device."""
    if isinstance(generator, RowGenerator):
        return generator.by_row(shape, is_normal=True)
    return torch.randn(tuple(shape), generator=generator, device=generator.device)


def uniform(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Uniform numbers in [0, 1) of ``shape`` [B, ...], float32, on the generator's device."""
    if isinstance(generator, RowGenerator):
        return generator.by_row(shape, is_normal=False)
    return torch.rand(tuple(shape), generator=generator, device=generator.device)


def stratified(count: int, generator: torch.Generator) -> torch.Tensor:
    """A number in [0, 1) for each of ``count`` examples, one in each of equally wide strata, in random order.

    Every example's number is uniform, but a batch covers the interval, which takes most of the noise of diffusion times out of
    the gradient. With a :class:`RowGenerator` there are as many strata as rows in the whole batch.

    Returns:
        [count] float32, on the generator's device.
    """
    if isinstance(generator, RowGenerator):
        order, num_strata = generator.order(), generator.num_rows
    else:
        order, num_strata = torch.randperm(count, generator=generator, device=generator.device), count
    return (order + uniform((count,), generator)) / num_strata


def _word(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
