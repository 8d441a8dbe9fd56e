"""The child process of `symbolic`: a line of JSON in, [wanted, answer]; true or false out."""

import json
import sys

from math_verify import parse, verify


def means_the_same(gold: str, answer: str) -> bool:
    """What math-verify says; it holds its own time limits to be the caller's business."""
    wanted, given = (parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in (gold, answer))
    return bool(wanted and given and verify(wanted, given, timeout_seconds=None))


def main() -> None:
    """Answers until its input ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(means_the_same(*json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
