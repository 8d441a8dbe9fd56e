# ruff: noqa: E501  rows as the data has them
"""A few invented rows in the layout of every benchmark, so that each task runs whole without its data."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from coderv2.evaluation.data import Data
from tests.evaluation.fakes import data_with
from tests.tiny_tokenizer import tiny_tokenizer

_HUMANEVAL = {
    "task_id": "HumanEval/0",
    "entry_point": "double",
    "prompt": 'def double(x: int) -> int:\n    """Twice x."""\n',
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(3) == 6\n    assert candidate(0) == 0\n",
}
_PLUS = {
    **_HUMANEVAL,
    "base_input": [[3], [0]],
    "plus_input": [[-7]],
    "atol": 0,
    "contract": "",
    "assertion": "",
}
_INFILLING = {
    **_HUMANEVAL,
    "task_id": "SingleLineInfilling/HumanEval/0/L0",
    "prompt": _HUMANEVAL["prompt"] + "    y = 2 * x\n",
    "canonical_solution": "    z = y\n",
    "suffix": "    return z\n",
}
# name of the file: prompt, body, test
_TRANSLATED = {
    "java": (
        "import java.util.*;\nclass Problem {\n    // Twice x.\n    public static long twice(long x) {\n",
        "        return 2 * x;\n",
        "    }\n    public static void main(String[] args) {\n    assert(twice(3l) == 6l);\n    }\n\n}\n",
        ["\n    }\n"],
    ),
    "cpp": (
        "#include<assert.h>\n#include<bits/stdc++.h>\n// Twice x.\nlong twice(long x) {\n",
        "    return 2 * x;\n",
        "}\nint main() {\n    auto candidate = twice;\n    assert(candidate(3) == 6);\n}\n",
        ["\n}"],
    ),
    "cs": (
        "using System;\nusing System.Diagnostics;\nclass Problem {\n    // Twice x.\n"
        "    public static long Twice(long x) {\n",
        "        return 2 * x;\n",
        "    }\n    public static void Main(string[] args) {\n    Debug.Assert(Twice(3L) == (6L));\n    }\n\n}\n",
        ["\n    }\n"],
    ),
    "ts": (
        "//Twice x.\nfunction twice(x: number): number {\n",
        "  return 2 * x;\n}\n",
        "declare var require: any;\nconst assert = require('node:assert');\n\nfunction test() {\n"
        "  let candidate = twice;\n  assert.deepEqual(candidate(3),6);\n}\n\ntest();",
        ["\nfunction ", "\n/*", "\n//", "\nclass"],
    ),
    "js": (
        "//Twice x.\nfunction twice(x){\n",
        "  return 2 * x;\n}\n",
        "const assert = require('node:assert');\n\nfunction test() {\n  let candidate = twice;\n"
        "  assert.deepEqual(candidate(3),6);\n}\n\ntest();",
        ["\nfunction ", "\n/*", "\n//", "\nconsole.log"],
    ),
    "php": (
        "<?php\n// Twice x.\nfunction twice($x) {\n",
        "    return 2 * $x;\n}\n",
        "function candidate(...$args) {\n    return twice(...$args);\n}\n\nfunction test(): void {\n"
        '    if (candidate(3) !== 6) { throw new Exception("Test failed!"); }\n}\n\ntest();',
        ["\nfunction", "\n?>", "\n//", "\n#"],
    ),
    "sh": (
        "#!/bin/bash\n# Twice x.\n#\n# $1 is an integer\ntwice() {\n",
        "    echo $(( 2 * $1 ))\n",
        '}\n\ncandidate() {\n    twice "$@"\n}\n\nset -e\nrun_test() {\n    [[ $(candidate "3") = "6" ]]\n}\n\nrun_test',
        ["\n}"],
    ),
    "swift": (
        "/// Twice x.\nfunc twice(x: Int) -> Int {\n",
        "    return 2 * x\n",
        "}\n\nassert(twice(x: 3) == 6)",
        ["\n}"],
    ),
    "r": (
        "# Twice x.\ntwice <- function(x) {\n",
        "    2 * x\n}\n",
        "test_humaneval <- function() {\n    candidate <- twice\n    if(!identical(candidate(3), "
        "6)){quit('no', 1)}\n}\n"
        "test_humaneval()",
        ["\n#", "\n```"],
    ),
    "jl": (
        '""" Twice x. """\nfunction twice(x::Int64)::Int64 \n',
        "    2 * x\nend\n",
        "using Test\n\n@testset begin\n\ncandidate = twice;\n\t@test(candidate(3) == 6)\nend\n",
        ["\nfunction", "\nmacro", "\n\n"],
    ),
    "d": (
        "import std.math;\n/*\n Twice x.\n*/\nlong twice(long x) \n",
        "{\n    return 2 * x;\n}\n",
        "unittest\n{\n    alias candidate = twice;\n\n    assert(candidate(3L) == 6L);\n}\nvoid main(){}",
        ["\n\n", "\nvoid", "\nbool", "\nint"],
    ),
    "rs": (
        "/// Twice x.\nfn twice(x: isize) -> isize {\n",
        "    2 * x\n",
        "}\n\nfn main() {\n    let candidate = twice;\n    assert_eq!(candidate(3), 6);\n}\n",
        ["\n}"],
    ),
    "rkt": (
        "#lang racket\n\n;; Twice x.\n(define (twice x)\n",
        "  (* 2 x))\n",
        '(require rackunit)\n\n(define (test-humaneval) \n\n  (let (( candidate twice))\n    (check-within (candidate 3) 6 0.001)\n))'
        "\n\n(test-humaneval)",
        ["\n(define ", "\n#|", "\n;", "\n("],
    ),
    "go": (
        'package twice_test\n\nimport (\n    "testing"\n    "fmt"\n)\n\n// Twice x.\nfunc twice(x int) int {\n',
        "    return 2 * x\n}\n",
        "func TestTwice(t *testing.T) {\n  candidate := twice\n  if fmt.Sprintf(\"%v\", candidate(3)) != \"6\" {\n"
        '    t.Errorf("wrong")\n  }\n}\n',
        ["\nfunc", "struct", "\n// "],
    ),
}  # fmt: skip
_ARC = {
    "id": "q1",
    "question": {
        "stem": "Which is hot?",
        "choices": [{"text": "ice", "label": "1"}, {"text": "fire", "label": "2"}],
    },
    "answerKey": "2",
}
_MMLU = "question,choice0,choice1,choice2,choice3,answer\nWhat is 1 + 1?,1,2,3,4,1\n"
_EXAM = "id,Question,A,B,C,D,Answer\n0,一加一等于几？,1,2,3,4,B\n"
_REPO = {
    "repo_name": "a/b", "file_path": "c.py", "import_statement": "import os", "cropped_code": "def f():", "next_line": "    return 1",
    "context": [{"identifier": "g", "path": "d.py", "snippet": "def g():\n    return 2\n"}], "created_at": "2023-12-05 10:00:00",
    "level": "2k",
}  # fmt: skip
_EXERCISE = {
    "name": "twice", "solution": ["twice.py"], "test": ["twice_test.py"], "example": [".meta/example.py"],
    "files": {
        ".docs/instructions.md": "Write twice.",
        ".meta/example.py": "def twice(x):\n    return 2 * x\n",
        "twice.py": "def twice(x):\n    pass\n",
        "twice_test.py": "import unittest\nfrom twice import twice\n\n\nclass TwiceTest(unittest.TestCase):\n"
        "    def test_it(self):\n        self.assertEqual(twice(3), 6)\n",
    },
}  # fmt: skip
_CONTEST = {
    "question_id": 1, "question_content": "Double a number.", "contest_date": "2024-01-06T00:00:00", "difficulty": "easy",
    "starter_code": "", "metadata": "{}", "private_test_cases": '[{"input": "-4", "output": "-8", "testtype": "stdin"}]',
    "public_test_cases": '[{"input": "3\\n", "output": "6\\n", "testtype": "stdin"}]',
    "canonical_solution": "print(2 * int(input()))",
}  # fmt: skip
_CALLED = {
    **_CONTEST, "question_id": 2, "starter_code": "class Solution:\n    def pair(self, x: int, y: int) -> list:\n     ",
    "metadata": '{"func_name": "pair"}', "private_test_cases": "[]",
    "public_test_cases": '[{"input": "3\\n4", "output": "[3, 4]", "testtype": "functional"}]',
    "canonical_solution": "class Solution:\n    def pair(self, x, y):\n        return (x, y)\n",
}  # fmt: skip
_OLD = {**_CONTEST, "question_id": 3, "contest_date": "2023-11-30T00:00:00"}
_WSC = {
    "target": {"span1_text": "小明", "span1_index": 0, "span2_text": "他", "span2_index": 5},
    "label": "true", "text": "小明说，他饿了。", "idx": 0,
}  # fmt: skip
_BBH_PROMPT = "canary\n-----\nAdd.\n\nQ: 1 + 1\nA: Let's think step by step.\nIt is 2. So the answer is 2.\n"
_JUDGE_CONFIG = 'system_prompt: "Judge \\"them\\".\\nWell."\nprompt_template: ["{question_1}\\n{answer_1}\\n{answer_2}"]\n'
_JUDGE_PROMPTS = [
    {"name": name, "system_prompt": "You are a judge.", "prompt_template": template}
    for name, template in {
        "single-v1": "Q {question} A {answer}",
        "single-v1-multi-turn": "Q {question_1} A {answer_1} Q {question_2} A {answer_2}",
        "single-math-v1": "Q {question} R {ref_answer_1} A {answer}",
        "single-math-v1-multi-turn": "R {ref_answer_1} {ref_answer_2} A {answer_1} A {answer_2}",
    }.items()
]


def archive(files: dict[str, str]) -> bytes:
    """A gzipped tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def translated(short: str, language: str) -> dict[str, Any]:
    """A row of a translation, with a body as its canonical solution."""
    prompt, body, test, stops = _TRANSLATED[short]
    fields = {"prompt": prompt, "test": test, "stop_tokens": stops, "canonical_solution": body}
    return {"task_id": "HumanEval_0_twice", "name": "HumanEval_0_twice", "language": language, **fields}


def _mbpp(number: int) -> dict[str, Any]:
    test = ["assert double(3) == 6", "assert double(0) == 0"]
    fields = {
        "text": "Double.",
        "code": "def double(x):\r\n    return 2 * x",
        "test_list": test,
        "test_setup_code": "",
    }
    return {"task_id": number, **fields}


def files() -> dict[str, object]:
    """Every file, by its path below the data folder."""
    question = {"question": "who wrote hamlet", "golden_answers": ["Shakespeare"], "answer": ["Shakespeare"]}
    agieval = [
        {"passage": None, "question": "1 + 1?", "options": ["(A)1", "(B)2"], "label": "B", "answer": None},
        {
            "passage": None,
            "question": "哪些?",
            "options": ["(A)1", "(B)2", "(C)3"],
            "label": ["A", "C"],
            "answer": None,
        },
        {"passage": None, "question": "1/4 + 1/4?", "options": None, "label": None, "answer": "\\frac{1}{2}"},
    ]
    return {
        "humaneval/HumanEval.jsonl.gz": [_HUMANEVAL],
        "humaneval-plus/HumanEvalPlus.jsonl.gz": [_PLUS],
        "mbpp-plus/MbppPlus.jsonl.gz": [
            {**_PLUS, "task_id": "Mbpp/9000", "prompt": '"""\nDouble.\n"""\n', "canonical_solution": "def double(x):\n    return 2 * x\n"}
        ],
        "mbpp/mbpp.jsonl.gz": [_mbpp(number) for number in (2, 3, 4, 11)],
        **{
            f"humaneval-infilling/HumanEval-{kind}.jsonl.gz": [_INFILLING]
            for kind in ("SingleLineInfilling", "MultiLineInfilling", "RandomSpanInfilling", "RandomSpanInfillingLight")
        },
        **{f"humaneval-multilingual/humaneval-{s}.jsonl.gz": [translated(s, s)] for s in _TRANSLATED},
        "livecodebench/test.jsonl.gz": [_CONTEST, _CALLED, _OLD],
        "usaco/usaco_subset307_dict.json": json.dumps({
            "1_twice": {
                "description": "Double.", "runtime_limit": 4, "memory_limit": 256, "problem_level": "bronze",
                "solution_python3": "print(2 * int(input()))",
            }
        }),
        "usaco/tests/1_twice/1.in": "3\n", "usaco/tests/1_twice/1.out": "6\n",
        "usaco/tests/1_twice/I.2": "4\n", "usaco/tests/1_twice/O.2": "8\n",
        "repobench/python.jsonl.gz": [_REPO, {**_REPO, "created_at": "2023-11-05"}],
        "repobench/java.jsonl.gz": [_REPO],
        "santacoder-fim/santacoder-fim-task.jsonl": [
            {"name": "a", "language": "py", "prompt": "x = ", "suffix": "\ny = 2\n", "canonical_solution": "1"},
            {"name": "b", "language": "js", "prompt": "x = ", "suffix": "\ny = 2\n", "canonical_solution": "3"},
        ],
        "aider-exercism-python/exercises.jsonl.gz": [_EXERCISE],
        "cruxeval/cruxeval.jsonl.gz": [{"id": "sample_0", "code": "def f(x):\n    return x + [1]", "input": "[0]",
        "output": "[0, 1]"}],
        "gsm8k/test.jsonl.gz": [{"question": "What is 500 + 500?", "answer": "It is <<500+500=1000>>1000.\n#### 1,000"}],
        "gsm8k/train.jsonl.gz": [{"question": "What is 2 + 2?", "answer": "It is <<2+2=4>>4.\n#### 4"}] * 9,
        "math/test.jsonl.gz": [
            {"problem": "1/4+1/4?", "level": "Level 2", "type": "Algebra", "solution": "So \\boxed{\\frac{1}{2}}."}
        ],
        "aime-2024/test.jsonl": [{"id": 60, "problem": "Which?", "solution": "", "answer": "025"}],
        "math-odyssey/final-odyssey-math-with-levels.jsonl.gz": [
            {"Problem_1": {"question": "1+1?\n\\end{problem}\n\\noindent", "answer": "$2$\\\\\n\\noindent", "label":
            "", "level": "x"}}
        ],
        "bbh/bbh.tar.gz": archive({
            "bbh/adding.json": json.dumps({"canary": "c", "examples": [{"input": "2 + 2", "target": "4"}]}),
            "bbh/letters.json": json.dumps({"examples": [{"input": "Pick", "target": "(B)"}]}),
            "cot-prompts/adding.txt": _BBH_PROMPT,
            "cot-prompts/letters.txt": _BBH_PROMPT,
        }),
        "mmlu/mmlu.tar.gz": archive({"mmlu/dev/sums_dev.csv": _MMLU, "mmlu/test/sums_test.csv": _MMLU}),
        **{f"arc/ARC-{level}-{part}.jsonl.gz": [_ARC] * 2 for level in ("Easy", "Challenge") for part in ("Test",
        "Train")},
        "triviaqa/test-subsample-1000.jsonl.gz": [question] * 6,
        "nq-open/NQ-open.dev.jsonl.gz": [question] * 6,
        "agieval/agieval-permissive.tar.gz": archive({
            "v1/sat-math.jsonl": "\n".join(map(json.dumps, agieval)), "few_shot_prompts.csv": "x\n",
        }),
        "cluewsc/test_public.json": [_WSC, {**_WSC, "idx": 1, "label": "false"}],
        "cluewsc/train_few_all.json": [_WSC] * 5,
        "ceval/ceval-exam/dev/sums_dev.csv": _EXAM, "ceval/ceval-exam/val/sums_val.csv": _EXAM,
        "cmmlu/cmmlu/dev/sums.csv": _EXAM, "cmmlu/cmmlu/test/sums.csv": _EXAM,
        "swe-bench-lite/test.jsonl.gz": [
            {"instance_id": "a__b-1", "repo": "a/b", "version": "1", "problem_statement": "It fails.",
             "patch": "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-1\n+2\n"}
        ],
        "arena-hard/question.jsonl.gz": [{"question_id": "q", "cluster": "c", "turns": [{"content": "Say hi."}]}],
        "arena-hard/baseline-gpt-4-0314.jsonl.gz": [{"question_id": "q", "choices": [{"turns": [{"content": "hi"}]}]}],
        "arena-hard/judge_config.yaml": _JUDGE_CONFIG,
        "mt-bench/question.jsonl": [
            {"question_id": 1, "category": "writing", "turns": ["Write.", "Again."]},
            {"question_id": 2, "category": "math", "turns": ["Add.", "Again."]},
        ],
        "mt-bench/reference-gpt-4.jsonl": [{"question_id": 2, "choices": [{"turns": ["2", "3"]}]}],
        "mt-bench/judge_prompts.jsonl": _JUDGE_PROMPTS,
        "alpaca-eval/baseline-gpt-4-1106-preview.json": json.dumps([{"instruction": "Say hi.", "output": "hi"}]),
        "alignbench/data_v1.1_release.jsonl": [
            {"question_id": 1, "category": "数学计算", "question": "1+1?", "reference": "2"},
            {"question_id": 2, "category": "文本写作", "question": "写诗。", "reference": "诗"},
        ],
    }  # fmt: skip


def data(folder: Path) -> Data:
    """All of it on disk, for a model of 4,096 tokens."""
    return data_with(folder, files(), tokenizer=tiny_tokenizer(), context=4096)
