"""llama.cpp's side of a comparison: a program for whichever Python has llama-cpp-python; it imports nothing of ours.

It reads one JSON command a line and answers each with one JSON line. `coderv2/engine/peer.py` starts it.
"""

import ctypes
import json
import os
import random
import sys
import time
from pathlib import Path

import llama_cpp as llama

BATCH = 2048
_random = random.Random(0)


class Session:
    """One loaded model and one context."""

    def __init__(
        self, gguf: str, threads: int, tokens: int, sequences: int, repack: bool, states: str
    ) -> None:
        begin = time.perf_counter()
        llama.llama_backend_init()
        model_params = llama.llama_model_default_params()
        model_params.use_extra_bufts = repack
        self.model = llama.llama_model_load_from_file(gguf.encode(), model_params)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {gguf}")
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = (tokens + 255) // 256 * 256, BATCH, 512
        params.n_threads = params.n_threads_batch = threads
        params.n_seq_max, params.kv_unified = sequences, True
        self.context = llama.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit(f"llama.cpp has no memory for a context of {tokens} tokens")
        self.seconds = time.perf_counter() - begin
        self.memory = llama.llama_get_memory(self.context)
        self.batch = llama.llama_batch_init(BATCH, 0, 1)
        self.words = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))
        self.states = states

    def prompt(self, tokens: int) -> float:
        """Seconds for a prompt with nothing before it."""
        llama.llama_memory_clear(self.memory, True)
        return self._prompt(tokens, 0)

    def steps(self, sequences: int, depth: int, count: int) -> float:
        """Seconds for `count` steps of sequences that are `depth` tokens long at first."""
        llama.llama_memory_clear(self.memory, True)
        for sequence in range(sequences if depth else 0):
            self._fill(depth, sequence)
        begin = time.perf_counter()
        for i in range(count):
            self._decode([(depth + i, sequence, True) for sequence in range(sequences)])
        return time.perf_counter() - begin

    def _fill(self, depth: int, sequence: int) -> None:
        """A context of `depth` tokens: computed once, then out of a file."""
        path = Path(self.states, f"{depth}.state")
        found, room = ctypes.c_size_t(0), (llama.llama_token * depth)()
        if not path.exists():
            self._prompt(depth, sequence)
            llama.llama_state_seq_save_file(self.context, bytes(path), sequence, room, depth)
        elif not llama.llama_state_seq_load_file(
            self.context, bytes(path), sequence, room, depth, ctypes.byref(found)
        ):
            raise SystemExit(f"llama.cpp cannot read back its own context of {depth} tokens")

    def _prompt(self, tokens: int, sequence: int) -> float:
        begin = time.perf_counter()
        for first in range(0, tokens, BATCH):
            places = range(first, min(tokens, first + BATCH))
            self._decode([(place, sequence, place == tokens - 1) for place in places])
        return time.perf_counter() - begin

    def _decode(self, rows: list[tuple[int, int, bool]]) -> None:
        self.batch.n_tokens = len(rows)
        for i, (place, sequence, wanted) in enumerate(rows):
            self.batch.token[i], self.batch.pos[i] = _random.randrange(self.words), place
            self.batch.n_seq_id[i], self.batch.logits[i] = 1, wanted
            self.batch.seq_id[i][0] = sequence
        if llama.llama_decode(self.context, self.batch):
            raise SystemExit("llama.cpp's decode failed")
        llama.llama_synchronize(self.context)


def peak() -> int:
    """Bytes that were resident at most, mapped files included."""
    with Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


@llama.llama_log_callback  # type: ignore[untyped-decorator]
def silent(level: int, text: bytes, data: object) -> None:
    """Nothing of llama.cpp's own log reaches the screen."""


def main() -> None:
    """Answers commands until there are no more."""
    # Only answers go to standard output, whatever else the library prints there.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    llama.llama_log_set(silent, ctypes.c_void_p(0))
    session: Session | None = None
    for line in sys.stdin:
        command = json.loads(line)
        name = command.pop("do")
        if name == "load":
            session = Session(**command)
            answer = {"value": session.seconds, "version": llama.__version__}
        elif name == "peak":
            answer = {"value": peak()}
        else:
            answer = {"value": getattr(session, name)(**command)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
