"""Quantising streams through the layers: what is written is what was judged, and calibration pays for every expert."""

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import Tensor

from coderv2.kernels.formats import FORMATS
from coderv2.kernels.layout import numbers
from coderv2.kernels.packing import unpack
from coderv2.kernels.rounding import nearest_int4
from coderv2.model import usage, weights
from coderv2.model.batch import Batch
from coderv2.model.calibrate import calibrated_network, rows_for
from coderv2.model.calibration import Rows
from coderv2.model.config import ModelConfig
from coderv2.model.convert import REPORT, quantise_folder
from coderv2.model.folder import FolderSource
from coderv2.model.loading import open_model
from coderv2.model.quantise import Quantiser
from tests.parity import sample_ids
from tests.tiny import tiny_config, tiny_model

IDS = sample_ids(6 * 64)
ROWS = Rows([IDS[i : i + 64] for i in range(0, 256, 64)], [IDS[256:320], IDS[320:]], "a test")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wide checkpoint."""
    folder = tmp_path_factory.mktemp("wide")
    weights.save(tiny_model(tiny_config(torch_dtype="float32")), folder)
    return folder


def _kl(folder: Path, source: Path) -> float:
    total = 0.0
    for row in ROWS.judge:
        with torch.inference_mode():
            wide, ours = (
                open_model(path)(Batch.packed([row]))[:-1].log_softmax(-1) for path in (source, folder)
            )
        total += float((wide.exp() * (wide - ours)).sum())
    return total / sum(len(row) - 1 for row in ROWS.judge)


@pytest.mark.parametrize("format", ["int4", "int8", "fp8", "bf16"])
def test_what_was_reported_is_what_the_folder_does(format: str, source: Path, tmp_path: Path) -> None:
    quality = quantise_folder(source, tmp_path, format, ROWS)
    assert quality is not None
    assert quality.kl == pytest.approx(_kl(tmp_path, source), rel=0.02, abs=1e-6)
    assert len(quality.layers) == 3
    assert quality.tokens == 2 * 63
    assert (tmp_path / REPORT).exists()
    stored = {weight.format.name for weight in open_model(tmp_path).weights()}
    assert stored == {"f32", format} | ({"int8"} if format == "int4" else set())


def test_calibrating_writes_down_which_experts_are_used(source: Path, tmp_path: Path) -> None:
    quantise_folder(source, tmp_path, "int4", ROWS)
    config = ModelConfig.from_folder(tmp_path)
    found = usage.read(tmp_path / usage.NAME, config)
    tokens = sum(map(len, ROWS.learn))
    for counts in found.counts.values():
        assert sum(counts) == tokens * config.num_experts_per_tok


def test_without_text_nothing_is_judged(source: Path, tmp_path: Path) -> None:
    assert quantise_folder(source, tmp_path, "int8", None) is None
    assert not (tmp_path / REPORT).exists()
    open_model(tmp_path)


def test_calibrated_int4_is_better_than_rounding_to_nearest(source: Path, tmp_path: Path) -> None:
    ids = sample_ids(20 * 64)
    cut = [ids[i : i + 64] for i in range(0, len(ids), 64)]
    rows = Rows(cut[:16], cut[16:], "a test")  # a thousand tokens, for experts that each see some dozens
    kl = []
    for calibrated in (True, False):
        with ExitStack() as stack:
            quantiser = Quantiser(
                FolderSource(source, stack), "int4", rows, torch.float32, calibrated=calibrated
            )
            (tmp_path / str(calibrated)).mkdir()
            quality = quantiser.run(tmp_path / str(calibrated))
            assert quality is not None
            kl.append(quality.kl)
    assert kl[0] < 0.8 * kl[1]


def test_an_expert_learns_from_who_chose_it_and_then_from_runners_up() -> None:
    score_T = torch.tensor([0.1, 0.4, 0.3, 0.2, 0.05])
    chose_T = torch.tensor([True, False, False, False, False])
    assert rows_for(score_T, chose_T, 3).tolist() == [0, 1, 2]
    assert rows_for(score_T, chose_T, 99).tolist() == [0, 1, 2, 3, 4]


SKEW = 16
"""Experts; the router's bias lets the last ones be chosen hardly ever."""


def _skewed_layer() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Weights of 16 experts, hidden states that differ by whom they choose, and each token's affinities."""
    generator = torch.Generator().manual_seed(3)
    D, F, T = 64, 48, 4096
    gate_EFD, up_EFD = (torch.randn(SKEW, F, D, generator=generator) * 0.1 for _ in range(2))
    down_EDF = torch.randn(SKEW, D, F, generator=generator) * 0.1
    router_ED = torch.randn(SKEW, D, generator=generator) * 0.3
    loud_D = torch.rand(D, generator=generator).pow(2) * 2
    x_TD = torch.randn(T, D, generator=generator) @ torch.randn(D, D, generator=generator) / 8 * loud_D
    bias_E = -torch.arange(SKEW).float().pow(1.5) / 8
    return gate_EFD, up_EFD, down_EDF, x_TD, (x_TD @ router_ED.T + bias_E).softmax(-1)


def _network(x_nD: Tensor, gate_FD: Tensor, up_FD: Tensor, down_DF: Tensor) -> Tensor:
    return (torch.nn.functional.silu(x_nD @ gate_FD.T) * (x_nD @ up_FD.T)) @ down_DF.T


def test_rarely_chosen_experts_gain_too_and_none_loses_more_than_a_tenth() -> None:
    gate_EFD, up_EFD, down_EDF, x_TD, scores_TE = _skewed_layer()
    learn, fresh = slice(0, 2048), slice(2048, None)
    chosen_TE = torch.zeros_like(scores_TE, dtype=torch.bool).scatter_(1, scores_TE.topk(2).indices, True)
    assert chosen_TE[learn].sum(0).min() < 8 < 800 < chosen_TE[learn].sum(0).max()
    off = torch.zeros(2, SKEW)
    for e in range(SKEW):
        triple = gate_EFD[e], up_EFD[e], down_EDF[e]
        rows = rows_for(scores_TE[learn, e], chosen_TE[learn, e], 128)
        ours = calibrated_network(triple, x_TD[learn][rows], scores_TE[learn][rows, e].square())
        # Judged on those of the fresh tokens that this expert is likeliest for.
        judge = scores_TE[fresh, e].topk(max(32, int(chosen_TE[fresh, e].sum()))).indices
        x_nD, share_n1 = x_TD[fresh][judge], scores_TE[fresh][judge, e, None]
        right_nD = _network(x_nD, *triple)
        for i, parts in enumerate((ours, [nearest_int4(w) for w in triple])):
            rounded = [
                numbers(FORMATS["int4"], p)[:, : w.shape[1]] for p, w in zip(parts, triple, strict=True)
            ]
            off[i, e] = float(((_network(x_nD, *rounded) - right_nD) * share_n1).square().sum())
    assert off[0].sum() < 0.7 * off[1].sum()
    assert bool((off[0] < 1.1 * off[1]).all()), (off[0] / off[1]).tolist()
    rare = chosen_TE[learn].sum(0) < 20
    assert off[0][rare].sum() < 0.9 * off[1][rare].sum()


def test_embedding_head_and_attention_s_up_projection_stay_at_eight_bits(
    source: Path, tmp_path: Path
) -> None:
    quantise_folder(source, tmp_path, "int4", None)
    model = open_model(tmp_path)
    attention = model.layers[0].self_attn
    for weight in (
        model.embed_tokens,
        model.lm_head,
        attention.key_up,
        attention.key_absorb,
        attention.value_up,
    ):
        assert weight.format.name == "int8"
    assert attention.o_proj.format.name == "int4"
    assert unpack(model.layers[1].mlp.gate).dtype == torch.float32
