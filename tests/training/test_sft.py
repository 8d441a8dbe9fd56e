from pathlib import Path

import torch

from coderv2.data import shards
from coderv2.data.shards import Shard
from coderv2.model import weights
from coderv2.text.chat import Message, encode_conversation
from coderv2.training.config import RunConfig
from coderv2.training.losses import next_tokens
from coderv2.training.sft import finetune, replay
from tests.tiny import tiny_config, tiny_model
from tests.tiny_tokenizer import tiny_tokenizer
from tests.training.fakes import counting_shard

TALK = [Message("user", "hi"), Message("assistant", "Hello!")]


def test_only_what_the_assistant_wrote_is_learnt(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    shards.write(tmp_path, [encode_conversation(tokenizer, TALK)], tokenizer.vocab_size)
    learnt = [token for token in next_tokens([Shard(tmp_path)[0]]).tolist() if token >= 0]
    assert tokenizer.decode(learnt, skip_special=False) == " Hello!" + tokenizer.decode(
        [tokenizer.eos_id], skip_special=False
    )


def test_two_steps_change_the_model_it_is_given(tmp_path: Path) -> None:
    model = tiny_model(tiny_config()).requires_grad_()
    before = model.lm_head.clone()
    run = RunConfig(steps=2, row_tokens=64, rows_per_step=1)
    assert finetune(model, counting_shard(tmp_path / "shard"), run, tmp_path / "run").step == 2
    assert not torch.equal(model.lm_head, before)


def test_replay_draws_documents_once_until_there_are_enough_tokens(tmp_path: Path) -> None:
    documents = Shard(counting_shard(tmp_path, examples=12, length=20))
    drawn = list(replay(documents, 50, seed=0))
    assert len(drawn) == 3
    assert len({ids[0] for ids in replay(documents, 10**6, seed=0)}) == 12
    assert drawn == list(replay(documents, 50, seed=0))


def test_a_loaded_model_is_trained_though_its_weights_came_without_gradients(tmp_path: Path) -> None:
    """It was PyTorch's "element 0 of tensors does not require grad"."""
    weights.save(tiny_model(tiny_config()), tmp_path / "model")
    model = weights.load(tmp_path / "model")
    before = model.lm_head.clone()
    run = RunConfig(steps=1, row_tokens=64, rows_per_step=1)
    finetune(model, counting_shard(tmp_path / "shard"), run, tmp_path / "run")
    assert not torch.equal(model.lm_head, before)
