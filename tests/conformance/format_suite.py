"""What every format of single files must do: a class for each, of a few lines.

    class TestMyFormat(FormatSuite):
        format, suffix = "mine", ".mine"

        def write(self, path, arrays): ...
        def load(self, path): ...

`write` and `load` are the reference library's.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import close

import gradtool
from gradtool.core.tensors import TensorSpec
from gradtool.formats import open_checkpoint

Arrays = dict[str, NDArray[Any]]

RNG = np.random.default_rng(14)
GRADIENTS: Arrays = {
    "layers.0.weight": RNG.standard_normal((4, 3)).astype(np.float32),
    "layers.0.bias": RNG.standard_normal(4).astype(np.float16),
    "layers.1.weight": RNG.standard_normal((2, 3, 2)),
    "scalar": np.array(0.25, np.float32),
    "empty": np.zeros((0, 3), np.float32),
}
OTHERS: Arrays = {
    "step": np.array(7, np.int64),
    "mask": np.array([True, False]),
}


class FormatSuite:
    """A format's tests.

    Attributes:
        format: its name in `formats.files.FILES`.
        suffix: of its files.
        keeps_order: whether files hold tensors in the order in which they were given.
        holds_several: whether a file holds more than one tensor, under names.
        others: what is in its files beside gradients.
        has_sections: whether top-level keys of a file may be sections.
        is_clipped: whether files can be clipped, and not measured only.
        most_bytes_cut: how much of a file is cut off byte by byte, from the start on.
    """

    format: ClassVar[str]
    suffix: ClassVar[str]
    keeps_order: ClassVar[bool] = True
    holds_several: ClassVar[bool] = True
    others: ClassVar[Arrays] = OTHERS
    has_sections: ClassVar[bool] = True
    is_clipped: ClassVar[bool] = True
    most_bytes_cut: ClassVar[int] = 3000

    def write(self, path: Path, arrays: Arrays) -> None:
        """Write a file as the library does for which the format is."""
        raise NotImplementedError

    def load(self, path: Path) -> Arrays:
        """What that library reads of it."""
        raise NotImplementedError

    def write_nested(self, path: Path, arrays: Arrays) -> None:
        """The same, where parts of names before dots are keys of their own, if there are any."""
        self.write(path, arrays)

    def written(self, tmp_path: Path, arrays: Arrays) -> tuple[Path, Arrays]:
        """A file, and what must be in it; of a format without names the first array."""
        path = tmp_path / f"dump{self.suffix}"
        if not self.holds_several:
            arrays = {"dump": next(iter(arrays.values()))}
        self.write(path, arrays)
        return path, arrays

    def test_every_tensor_is_listed_with_its_type_shape_and_elements(self, tmp_path: Path) -> None:
        path, arrays = self.written(tmp_path, GRADIENTS)
        checkpoint = open_checkpoint(str(path))
        assert checkpoint.format == self.format
        assert checkpoint.skipped == ()
        assert {spec.name for spec in checkpoint.tensors} == arrays.keys()
        for spec in checkpoint.tensors:
            array = arrays[spec.name]
            assert spec.dtype.name == f"F{8 * array.itemsize}"
            assert spec.shape == array.shape
            assert elements(spec) == array.tobytes()

    def test_what_is_no_gradient_is_listed_as_such(self, tmp_path: Path) -> None:
        if not self.holds_several:
            pytest.skip("it holds one tensor")
        path, arrays = self.written(tmp_path, {**GRADIENTS, **self.others})
        checkpoint = open_checkpoint(str(path))
        skipped = {item.name: item.reason for item in checkpoint.skipped}
        kinds = {"i": "integer", "b": "bool"}
        assert skipped == {name: kinds[one.dtype.kind] for name, one in self.others.items()}
        assert {spec.name for spec in checkpoint.tensors} == arrays.keys() - skipped.keys()

    def test_parts_of_a_training_checkpoint_are_sections(self, tmp_path: Path) -> None:
        if not (self.holds_several and self.has_sections):
            pytest.skip("it has no sections")
        names = {
            "grads.w": "grads",
            "model.w": "model",
            "optimizer.exp_avg": "optimizer.exp_avg",
            "optimizer.w": "optimizer",
            "optimizer.step": "other",
            "best": "other",
        }
        path = tmp_path / f"dump{self.suffix}"
        self.write_nested(path, {name: np.ones(2, np.float32) for name in names})
        checkpoint = open_checkpoint(str(path))
        assert {spec.name: spec.section for spec in checkpoint.tensors} == names
        assert checkpoint.section_kinds == {
            "grads": "gradients",
            "model": "weights",
            "optimizer": "optimizer",
            "optimizer.exp_avg": "optimizer",
        }

    def test_tensors_are_in_the_models_order_where_the_format_keeps_it(
        self, tmp_path: Path
    ) -> None:
        names = ["h.9", "h.0", "h.10", "a"]
        path, arrays = self.written(tmp_path, {name: np.ones(2, np.float32) for name in names})
        found = gradtool.measure(path)
        assert found.in_model_order == self.keeps_order
        wanted = [*arrays] if self.keeps_order else ["a", "h.0", "h.9", "h.10"]
        assert [tensor.name for tensor in found.in_order] == wanted

    def test_norms_and_what_is_not_finite_are_those_of_the_elements(self, tmp_path: Path) -> None:
        bad = np.array([[1.0, math.nan], [math.inf, -2.0]], np.float32)
        path, arrays = self.written(tmp_path, GRADIENTS)
        exact = math.sqrt(math.fsum(x * x for a in arrays.values() for x in a.ravel().tolist()))
        total = gradtool.measure(path).total
        assert total is not None
        assert close(total.norm, exact)
        path, _ = self.written(tmp_path, {"bad": bad})
        (tensor,) = gradtool.measure(path).tensors
        assert (tensor.stats.nan, tensor.stats.posinf, tensor.first_nonfinite) == (1, 1, (0, 1))

    def test_a_file_that_is_cut_anywhere_is_refused(self, tmp_path: Path) -> None:
        path, _ = self.written(tmp_path, GRADIENTS)
        content = path.read_bytes()
        cut = tmp_path / f"cut{self.suffix}"
        for nbytes in [*range(min(len(content), self.most_bytes_cut)), len(content) - 1]:
            cut.write_bytes(content[:nbytes])
            with pytest.raises(gradtool.InputError):
                gradtool.measure(cut, verify=True)

    def test_what_can_only_be_measured_is_not_clipped(self, tmp_path: Path) -> None:
        path, _ = self.written(tmp_path, GRADIENTS)
        assert bool(open_checkpoint(str(path)).measure_only) != self.is_clipped
        if self.is_clipped:
            return
        out = tmp_path / f"clipped{self.suffix}"
        for how in ({"out": out}, {"in_place": True}, {"dry_run": True}):
            with pytest.raises(gradtool.UsageError, match="cannot be clipped: ") as caught:
                gradtool.clip(path, max_norm=0.5, **how)
            assert str(path) in str(caught.value)
            assert "\n" not in str(caught.value)
        assert [*tmp_path.iterdir()] == [path]

    def test_what_was_clipped_loads_as_its_elements_scaled(self, tmp_path: Path) -> None:
        if not self.is_clipped:
            pytest.skip("it can only be measured")
        path, arrays = self.written(tmp_path, {**GRADIENTS, **self.others})
        out = tmp_path / f"clipped{self.suffix}"
        outcome = gradtool.clip(path, out, max_norm=0.5)
        coef = outcome.clip_coef
        assert coef is not None
        assert 0.0 < coef < 1.0
        loaded = self.load(out)
        assert loaded.keys() == arrays.keys()
        for name, array in arrays.items():
            is_gradient = array.dtype.kind == "f"
            wanted = (array.astype(np.float64) * coef).astype(array.dtype) if is_gradient else array
            assert loaded[name].dtype == array.dtype
            assert loaded[name].tobytes() == wanted.tobytes()

    def test_its_own_bytes_are_written_back_where_nothing_changes(self, tmp_path: Path) -> None:
        if not self.is_clipped:
            pytest.skip("it can only be measured")
        path, _ = self.written(tmp_path, GRADIENTS)
        out = tmp_path / f"clipped{self.suffix}"
        gradtool.clip(path, out, max_norm=1e9)
        assert out.read_bytes() == path.read_bytes()


def elements(spec: TensorSpec) -> bytes:
    """The bytes of a tensor in C order, wherever they are."""
    if spec.stream is not None:
        return b"".join(bytes(piece) for piece in spec.stream.pieces(1 << 16))
    found = b""
    for extent in spec.extents:
        with extent.file.open() as source:
            found += source.read(extent.offset, extent.nbytes)
    return found
