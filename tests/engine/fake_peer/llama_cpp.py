"""As much of llama-cpp-python as the peer's program calls: it checks what it is asked and computes nothing."""

import ctypes
from pathlib import Path
from types import SimpleNamespace

__version__ = "0.0-fake"
llama_token = ctypes.c_int32
_held = {}
_limits = {}


def llama_log_callback(function):
    return function


def llama_model_default_params():
    return SimpleNamespace(use_extra_bufts=True)


def llama_context_default_params():
    return SimpleNamespace()


def llama_model_load_from_file(path, params):
    return None if b"refused" in path else object()


def llama_init_from_model(model, params):
    _limits.update(tokens=params.n_ctx, sequences=params.n_seq_max)
    return object()


def llama_batch_init(size, embedding, sequences):
    rows = [[None] for _ in range(size)]
    return SimpleNamespace(
        n_tokens=0, token=[0] * size, pos=[0] * size, n_seq_id=[0] * size, seq_id=rows, logits=[0] * size
    )


def llama_decode(context, batch):
    for i in range(batch.n_tokens):
        sequence = batch.seq_id[i][0]
        # Tokens of a sequence follow each other without a gap.
        if batch.pos[i] != _held.get(sequence, 0) or sequence >= _limits["sequences"]:
            return 1
        _held[sequence] = batch.pos[i] + 1
    return int(sum(_held.values()) > _limits["tokens"])


def llama_memory_clear(memory, data):
    _held.clear()


def llama_state_seq_save_file(context, path, sequence, tokens, count):
    Path(path.decode()).write_text(str(_held[sequence]))


def llama_state_seq_load_file(context, path, sequence, tokens, count, found):
    _held[sequence] = int(Path(path.decode()).read_text())
    return _held[sequence]


def llama_vocab_n_tokens(vocab):
    return 100


def _nothing(*arguments):
    return None


llama_backend_init = llama_log_set = llama_get_memory = llama_model_get_vocab = llama_synchronize = _nothing
