"""Models that cannot be served: each is refused at start, in one line that says why."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from router.agent.app import open_engine
from router.lab.simulation.documents import by_tokenizer
from router.settings.base import BadSettings
from tests.engines.test_transformers import settings_of
from tests.helpers import Process
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.skipif(
    find_spec("transformers") is None, reason="needs `make transformers`"
)


def edited(model: Path, folder: Path, **changes: object) -> Path:
    """A copy of a model with other values in its configuration."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def reweighed(model: Path, folder: Path, change: Any) -> Path:  # noqa: ANN401
    """A copy of a model whose weights are what `change` makes of them."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, folder)
    weights = folder / "model.safetensors"
    save_file(change(load_file(weights)), weights, metadata={"format": "pt"})
    return folder


def test_a_model_that_is_missing_or_broken_is_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="no folder '/nowhere/at/all'"):
        open_engine(settings_of(Path("/nowhere/at/all")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadSettings, match=r"empty.*its config cannot be loaded"):
        open_engine(settings_of(tmp_path / "empty"))
    broken = shutil.copytree(model, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nonsense" * 10)
    with pytest.raises(BadSettings, match=r"broken.*its weights cannot be loaded"):
        open_engine(settings_of(broken))
    mute = shutil.copytree(model, tmp_path / "mute")
    for path in mute.glob("token*"):
        path.unlink()
    with pytest.raises(BadSettings, match=r"mute.*its tokenizer cannot be loaded"):
        open_engine(settings_of(mute))
    with pytest.raises(BadSettings, match="max_model_len: 4096 is above the model's own 2048"):
        open_engine(settings_of(model, max_model_len=4096))


def test_what_takes_too_much_memory_is_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"kv_tokens: .* GB free: take fewer --kv-tokens"):
        open_engine(settings_of(model, kv_tokens=10**10))
    with pytest.raises(BadSettings, match=r"slots: .* GB free: take fewer --slots"):
        open_engine(settings_of(model, slots=1_000_000))
    big = edited(model, tmp_path / "big", num_hidden_layers=400, hidden_size=16384)
    with pytest.raises(BadSettings, match=r"model: .* billion weights .* take a smaller model"):
        open_engine(settings_of(big))


def test_missing_weights_are_named_rather_than_made_up(model: Path, tmp_path: Path) -> None:
    def without(layer: str) -> Any:  # noqa: ANN401
        return lambda weights: {k: v for k, v in weights.items() if layer not in k}

    cut = reweighed(model, tmp_path / "cut", without(".layers.1."))
    with pytest.raises(BadSettings, match=r"missing: model\.layers\.1\..* and 6 more$"):
        open_engine(settings_of(cut))
    short = edited(model, tmp_path / "short", num_hidden_layers=3)
    with pytest.raises(BadSettings, match=r"missing: model\.layers\.2\."):
        open_engine(settings_of(short))
    narrow = edited(model, tmp_path / "narrow", intermediate_size=350)
    with pytest.raises(BadSettings, match=r"shape: .*mlp.*\[128, 344\], not \[128, 350\]"):
        open_engine(settings_of(narrow))


def test_weights_that_are_no_numbers_are_named(model: Path, tmp_path: Path) -> None:
    def spoil(weights: dict[str, Any]) -> dict[str, Any]:
        weights["model.norm.weight"][3] = float("nan")
        weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("inf")
        return weights

    spoilt = reweighed(model, tmp_path / "spoilt", spoil)
    told = r"no finite numbers: model\.layers\.1\.mlp\.up_proj\.weight, model\.norm\.weight$"
    with pytest.raises(BadSettings, match=told):
        open_engine(settings_of(spoilt))


def test_models_that_are_not_batched_are_named(model: Path, tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel, MambaConfig, T5Config

    size = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = shutil.copytree(model, tmp_path / "bert")
    BertModel(BertConfig(vocab_size=4096, intermediate_size=64, **size)).save_pretrained(bert)
    with pytest.raises(BadSettings, match=r"weights are missing: cls\.predictions"):
        open_engine(settings_of(bert, max_model_len=512))
    mamba = shutil.copytree(model, tmp_path / "mamba")
    MambaConfig(hidden_size=64, num_hidden_layers=1).save_pretrained(mamba)
    with pytest.raises(BadSettings, match="mamba has no attention heads"):
        open_engine(settings_of(mamba))
    t5 = shutil.copytree(model, tmp_path / "t5")
    T5Config(d_model=64, d_ff=64, num_layers=1, num_heads=2).save_pretrained(t5)
    with pytest.raises(BadSettings, match="no model that generates text") as refused:
        open_engine(settings_of(t5))
    assert "\n" not in str(refused.value)
    mixed = edited(model, tmp_path / "mixed", layer_types=["linear_attention"] * 2)
    with pytest.raises(BadSettings, match=r"mixed.*transformers cannot batch it"):
        open_engine(settings_of(mixed))


def test_a_refusal_is_one_line_and_a_warning_comes_once(model: Path, tmp_path: Path) -> None:
    flags = ("agent", "--port", "0", "--engine", "transformers", "--threads", "1")
    with Process(*flags, "--slots", "1000000", "--model", str(model)) as refused:
        assert refused.process.wait(PATIENCE_S) == 2
        refused.wait_for("(slots: )")
        assert len(refused.lines) == 1
    mute = shutil.copytree(model, tmp_path / "mute")
    (mute / "chat_template.jinja").unlink()
    with Process(*flags, "--slots", "4", "--kv-tokens", "2048", "--model", str(mute)) as agent:
        agent.wait_for(r"listening (url)=")
        assert sum("no chat template" in line for line in agent.lines) == 1
        assert not any("not sharded" in line for line in agent.lines)


def test_lengths_of_texts_are_those_of_a_models_tokenizer(model: Path) -> None:
    from transformers import AutoTokenizer

    text = "How many clips did Natalia sell in April and May?"
    ids = AutoTokenizer.from_pretrained(model)(text, add_special_tokens=False).input_ids
    assert by_tokenizer(model / "tokenizer.json")(text) == len(ids)
    with pytest.raises(BadSettings, match=r"config\.json is no tokenizer\.json"):
        by_tokenizer(model / "config.json")
