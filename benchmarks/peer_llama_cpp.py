"""llama.cpp through llama-cpp-python: tokens, logits of every place, and its own quantiser."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import llama_cpp
import numpy as np
import torch
from torch import Tensor

_F32 = 0  # a number type


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """Its chatter goes nowhere."""


class LlamaCpp:
    """One open file; a context, which closes it."""

    def __init__(self, path: Path, *, context: int = 1024, threads: int = 2) -> None:
        llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        if not self._model:
            raise ValueError(f"llama.cpp does not open {path}")
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self.vocab_size: int = llama_cpp.llama_vocab_n_tokens(self._vocabulary)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = context
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = _F32
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._batch = llama_cpp.llama_batch_init(context, 0, 1)

    def tokens(self, text: str, *, special: bool = False) -> list[int]:
        """Without BOS."""
        raw = text.encode()
        room = (llama_cpp.llama_token * (len(raw) + 8))()
        count = llama_cpp.llama_tokenize(self._vocabulary, raw, len(raw), room, len(room), False, special)
        return list(room[:count])

    def logits(self, ids: Sequence[int]) -> Tensor:
        """[T, W], float32, after each token."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        self._decode(ids, first=0)
        rows = [self._row(i) for i in range(len(ids))]
        return torch.from_numpy(np.stack(rows))

    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        """The likeliest tokens after `ids`, one after another."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        self._decode(ids, first=0)
        answer = [int(self._row(len(ids) - 1).argmax())]
        while len(answer) < count:
            self._decode(answer[-1:], first=len(ids) + len(answer) - 1)
            answer.append(int(self._row(0).argmax()))
        return answer

    def _row(self, i: int) -> np.ndarray:
        pointer = llama_cpp.llama_get_logits_ith(self._context, i)
        return np.ctypeslib.as_array(pointer, (self.vocab_size,)).copy()

    def _decode(self, ids: Sequence[int], first: int) -> None:
        self._batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            self._batch.token[i], self._batch.pos[i] = token, first + i
            self._batch.n_seq_id[i], self._batch.logits[i] = 1, True
            self._batch.seq_id[i][0] = 0
        if code := llama_cpp.llama_decode(self._context, self._batch):
            raise RuntimeError(f"llama_decode: {code}")

    def __enter__(self) -> "LlamaCpp":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)


def quantise(source: Path, target: Path, number: int) -> None:
    """llama-quantize: `number` is the file type's (`general.file_type`)."""
    llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = number, 1
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)):
        raise RuntimeError(f"llama.cpp does not quantise {source} to file type {number}")
