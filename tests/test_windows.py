from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsad_core.windows import window_indices


@settings(deadline=None)
@given(rows=st.integers(1, 6), columns=st.integers(1, 6), data=st.data())
def test_windows_are_all_valid_blocks_in_row_major_order(
    rows: int, columns: int, data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, min(rows, columns)))
    expected = [
        [(top + i) * columns + left + j for i in range(size) for j in range(size)]
        for top in range(rows - size + 1)
        for left in range(columns - size + 1)
    ]
    np.testing.assert_array_equal(window_indices((rows, columns), size), expected)


def test_windows_of_winclips_grid() -> None:
    """15 x 15 patches: 196 windows of 2 x 2, 169 of 3 x 3; a corner patch lies in one, an inner one in k²."""
    two, three = window_indices(15, 2), window_indices(15, 3)
    assert two[0].tolist() == [0, 1, 15, 16] and two[14].tolist() == [15, 16, 30, 31]
    assert three[0].tolist() == [0, 1, 2, 15, 16, 17, 30, 31, 32]
    for windows, count, inner in ((two, 196, 4), (three, 169, 9)):
        coverage = np.bincount(windows.flatten(), minlength=225)
        assert len(windows) == count and coverage[0] == 1 and coverage[112] == inner


@pytest.mark.parametrize("size", [0, 4])
def test_window_that_does_not_fit(size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} x {size} patches does not fit a grid of 3 x 4"):
        window_indices((3, 4), size)
