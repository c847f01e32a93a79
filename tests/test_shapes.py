"""The letters at the end of array names are true: see tests/lint_shapes.py."""

import subprocess
import sys
from pathlib import Path

import pytest
from lint_shapes import errors

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ["model", "train", "sample", "align", "convert"]


def test_einsum_strings_and_shape_suffixes_agree_in_every_room_that_computes():
    paths = [p for room in ROOMS for p in sorted((ROOT / "tigerjax" / room).rglob("*.py"))]
    found = [e for p in paths for e in errors(p.read_text(encoding="utf-8"), str(p.relative_to(ROOT)))]
    assert not found, "\n".join(found)
    checked = sum("einsum(" in p.read_text(encoding="utf-8") for p in paths)
    assert checked >= 3, f"only {checked} files hold an einsum: are the rooms' names right?"


PLANTED = {
    'y = jnp.einsum("BTD,DNH->BTNH", x_BTD, wk_DKH)': "wk_DKH is given to einsum as DNH",
    'y = np.einsum("BTD,DNH->BTNH", self.x_BTF.astype(f), wq_DNH)': "self.x_BTF.astype(f) is given to einsum as BTD",
    'q_BTNH = jnp.einsum("BTD,DKH->BTKH", x, w)': "q_BTNH is assigned an einsum of shape BTKH",
    's_BTS = jnp.einsum("BTH,BSH->BT", a, b).astype(f32) * H**-0.5': "s_BTS is assigned an einsum of shape BT",
    'a_BT, b_BD = 1, jnp.einsum("BT,TD->BDT", p, q)': "b_BD is assigned an einsum of shape BDT",
    'y: Array = jnp.einsum("BX,XD->BD", p, q)': "einsum 'BX,XD->BD' uses 'X', which is not in the legend",
    'y = jnp.einsum("BT,TD->BH", p_BT, q_TD)': "einsum 'BT,TD->BH' yields 'H', which no operand has",
    'y = jnp.einsum("BT,TD->BD", p_BT)': "einsum 'BT,TD->BD' names 2 operands and is given 1",
    "y = jnp.einsum(spec, p_BT)": "einsum wants a literal string with '->' as its first argument",
    'y = jnp.einsum("DV,BTV->BTD", w_VD, l_BTV)': "w_VD is given to einsum as DV",
    'y = jnp.einsum("VD,BTV->BTD", w_VD.T, l_BTV)': "w_VD.T is given to einsum as VD",
    "q_BTKGH = q_BTNH.reshape(B, T, N, H)": "q_BTKGH has 5 dimensions and is reshaped to 4 sizes",
    "q_BT = q_BTNH.reshape((B, T, -1))": "q_BT has 2 dimensions and is reshaped to 3 sizes",
    "k_BKTH = k_BTKH.swapaxes(1, 3)": "k_BKTH is assigned a transpose of shape BHKT",
    "k_BKTH = jnp.transpose(k_BTKH, (0, 2, 3, 1))": "k_BKTH is assigned a transpose of shape BKHT",
    "x_BTD = x_BTF.astype(dtype)": "x_BTD is assigned x_BTF",
    "def f():\n    if (x_BT := y_TB) is None: pass": "x_BT is assigned y_TB",
}


@pytest.mark.parametrize("source", PLANTED)
def test_a_planted_error_is_found_with_its_line(source: str):
    lines = [line.strip() for line in source.splitlines()]
    found = errors("import jax\n" + source, "planted.py")
    assert found == [f"planted.py:{1 + len(lines)}: {PLANTED[source]}"]


def test_right_code_passes():
    right = """
q_BTNH = jnp.einsum("BTD,DNH->BTNH", x_BTD, wq_DNH.astype(dtype))
s_BKGTS = jnp.einsum("BTKGH,BSKH->BKGTS", q_BTKGH, k_BTKH, preferred_element_type=jnp.float32) * H**-0.5
y_BTD = jnp.einsum("BTV,VD->BTD", l_BTV, w_DV.T)
k_BSKH = k_BTKH
k_BKTH = k_BTKH.swapaxes(1, 2)
q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
q_BTNH = o_BTKGH.reshape(*shape)
a_BT, b_B = jnp.einsum("BT->BT", c_BT), d_B
EPS_BT = MAX_D
loss_sum = total_nats
"""
    assert errors(right, "right.py") == []


def test_the_linter_as_a_command_exits_1_and_prints_file_and_line(tmp_path: Path):
    bad = tmp_path / "bad.py"
    bad.write_text('q_BT = jnp.einsum("BTD,D->TB", x_BTD, s_D)\n')
    command = [sys.executable, str(ROOT / "tests" / "lint_shapes.py")]
    run = subprocess.run([*command, str(bad)], capture_output=True, text=True)
    assert run.returncode == 1 and run.stdout == f"{bad}:1: q_BT is assigned an einsum of shape TB\n"
    run = subprocess.run([*command, str(ROOT / "tests" / "conftest.py")], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout == ""
