"""The published numbers: DeepSeek-Coder-V2's README 3.1 to 3.6 and its paper's table 3, to set ours beside.

Shares are in percent, AIME in problems of 30, MT-Bench and AlignBench in points of 10; None was not published.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """One table of the README."""

    title: str
    tasks: tuple[str, ...]
    """One for each column, by our names."""
    rows: dict[str, tuple[float | None, ...]]


LITE, FULL = "DeepSeek-Coder-V2-Lite-Instruct", "DeepSeek-Coder-V2-Instruct"
PROBLEMS = {
    "humaneval": 164, "mbpp-plus": 378, "livecodebench": 226, "usaco": 307, "santacoder-fim": 4792, "defects4j": 238,
    "swe-bench-lite": 300, "aider": 133, "gsm8k": 1319, "math": 5000, "aime-2024": 30, "math-odyssey": 387, "bbh": 6511,
    "mmlu": 14042, "arc-easy": 2376, "arc-challenge": 1172, "triviaqa": 11313, "naturalquestions": 3610, "cluewsc": 976,
    "c-eval": 12342, "cmmlu": 11582, "arena-hard": 500, "alpaca-eval": 805, "mt-bench": 80, "alignbench": 683,
    "cruxeval-i": 800, "cruxeval-o": 800,
    **dict.fromkeys(["humaneval-cpp", "humaneval-js", "humaneval-php", "humaneval-r", "humaneval-rkt"], 161),
    **dict.fromkeys(["humaneval-ts", "humaneval-jl"], 159),
    **dict.fromkeys(["humaneval-java", "humaneval-cs", "humaneval-sh", "humaneval-swift"], 158),
    **dict.fromkeys(["humaneval-d", "humaneval-rs"], 156),
}  # fmt: skip
"""How many the published number is over, where that is known."""
OTHERWISE = {
    "swe-bench-lite": "one patch from the issue's text instead of an agent's",
    "defects4j": "bugs of our choice: the paper's list is not public",
    "alpaca-eval": "length control of our own",
    "alignbench": "the judge's instructions are ours",
}
"""What is measured otherwise than published, whatever the settings."""
JUDGES = {"arena-hard": ("gpt-4-1106-preview",), "mt-bench": ("gpt-4", "gpt-4-0613", "gpt-4-0314")}
"""The judges of the published numbers, by the names that count as them."""
OUT_OF = {"aime-2024": 30.0, "mt-bench": 1.0, "alignbench": 1.0}
"""What a share is multiplied with to be in a table's unit; 100 for all others."""

TABLES = (
    Table(
        "3.1 Code generation",
        ("humaneval", "mbpp-plus", "livecodebench", "usaco"),
        {
            "Gemini-1.5-Pro": (83.5, 74.6, 34.1, 4.9),
            "Claude-3-Opus": (84.2, 72.0, 34.6, 7.8),
            "GPT-4-Turbo-1106": (87.8, 69.3, 37.1, 11.1),
            "GPT-4-Turbo-0409": (88.2, 72.2, 45.7, 12.3),
            "GPT-4o-0513": (91.0, 73.5, 43.4, 18.8),
            "CodeStral": (78.1, 68.2, 31.0, 4.6),
            "DeepSeek-Coder-Instruct 33B": (79.3, 70.1, 22.5, 4.2),
            "Llama3-Instruct 70B": (81.1, 68.8, 28.7, 3.3),
            LITE: (81.1, 68.8, 24.3, 6.5),
            FULL: (90.2, 76.2, 43.4, 12.1),
        },
    ),
    Table(
        "3.2 Code completion",
        ("repobench-python", "repobench-java", "santacoder-fim"),
        {
            "CodeStral": (46.1, 45.7, 83.0),
            "DeepSeek-Coder-Base 7B": (36.2, 43.3, 86.1),
            "DeepSeek-Coder-Base 33B": (39.1, 44.8, 86.4),
            "DeepSeek-Coder-V2-Lite-Base": (38.9, 43.3, 86.4),
        },
    ),
    Table(
        "3.3 Code fixing",
        ("defects4j", "swe-bench-lite", "aider"),
        {
            "Gemini-1.5-Pro": (18.6, 19.3, 57.1),
            "Claude-3-Opus": (25.5, 11.7, 68.4),
            "GPT-4-Turbo-1106": (22.8, 22.7, 65.4),
            "GPT-4-Turbo-0409": (24.3, 18.3, 63.9),
            "GPT-4o-0513": (26.1, 26.7, 72.9),
            "CodeStral": (17.8, 2.7, 51.1),
            "DeepSeek-Coder-Instruct 33B": (11.3, 0.0, 54.5),
            "Llama3-Instruct 70B": (16.2, None, 49.2),
            LITE: (9.2, 0.0, 44.4),
            FULL: (21.0, 12.7, 73.7),
        },
    ),
    Table(
        "3.4 Mathematical reasoning",
        ("gsm8k", "math", "aime-2024", "math-odyssey"),
        {
            "Gemini-1.5-Pro": (90.8, 67.7, 2, 45.0),
            "Claude-3-Opus": (95.0, 60.1, 2, 40.6),
            "GPT-4-Turbo-1106": (91.4, 64.3, 1, 49.1),
            "GPT-4-Turbo-0409": (93.7, 73.4, 3, 46.8),
            "GPT-4o-0513": (95.8, 76.6, 2, 53.2),
            "Llama3-Instruct 70B": (93.0, 50.4, 1, 27.9),
            LITE: (86.4, 61.8, 0, 44.4),
            FULL: (94.9, 75.7, 4, 53.7),
        },
    ),
    Table(
        "3.5 General natural language",
        (
            "bbh", "mmlu", "arc-easy", "arc-challenge", "triviaqa", "naturalquestions", "agieval", "cluewsc", "c-eval",
            "cmmlu", "arena-hard", "alpaca-eval", "mt-bench", "alignbench",
        ),
        {
            "DeepSeek-V2-Lite Chat": (
                48.1, 55.7, 86.1, 73.4, 65.2, 35.5, 42.8, 80.0, 60.1, 62.5, 11.4, 16.85, 7.37, 6.02,
            ),
            LITE: (61.2, 60.1, 88.9, 77.4, 59.5, 30.8, 28.7, 76.5, 61.6, 62.7, 38.1, 17.74, 7.81, 6.83),
            "DeepSeek-V2 Chat": (
                79.7, 78.1, 98.1, 92.3, 86.7, 53.4, 61.4, 89.9, 78.0, 81.6, 41.6, 38.9, 8.97, 7.91,
            ),
            FULL: (83.9, 79.2, 97.4, 92.8, 82.3, 47.5, 60.0, 85.9, 79.4, 80.9, 65.0, 36.92, 8.77, 7.84),
        },
    ),
    Table(
        "HumanEval in other languages (paper, table 3)",
        (
            "humaneval", "humaneval-java", "humaneval-cpp", "humaneval-cs", "humaneval-ts", "humaneval-js",
            "humaneval-php", "humaneval-sh", "humaneval-swift", "humaneval-r", "humaneval-jl", "humaneval-d",
            "humaneval-rs", "humaneval-rkt",
        ),
        {
            "GPT-4o-0513": (
                91.0, 80.4, 87.0, 82.9, 86.2, 87.6, 79.5, 53.8, 75.9, 65.2, 78.0, 60.9, 80.1, 64.6,
            ),
            "CodeStral": (78.1, 71.5, 71.4, 77.2, 72.3, 73.9, 69.6, 47.5, 63.3, 49.7, 67.9, 32.1, 67.3, 37.3),
            LITE: (81.1, 76.6, 75.8, 76.6, 80.5, 77.6, 74.5, 43.0, 64.6, 47.8, 67.3, 45.5, 62.2, 41.6),
            FULL: (90.2, 82.3, 84.8, 82.3, 83.0, 84.5, 79.5, 52.5, 72.2, 64.0, 72.3, 64.1, 78.2, 63.4),
        },
    ),
    Table(
        "CRUXEval with chain of thought (paper, table 8)",
        ("cruxeval-i", "cruxeval-o"),
        {
            "GPT-4o-0513": (77.4, 88.7),
            "CodeStral": (48.0, 60.6),
            LITE: (53.0, 52.9),
            FULL: (70.0, 75.1),
        },
    ),
)  # fmt: skip

FIGURE_TASKS = ("humaneval", "mbpp-plus", "math", "gsm8k", "aider", "livecodebench", "swe-bench-lite")
FIGURE: dict[str, tuple[float | None, ...]] = {
    "DeepSeek-Coder-V2": (90.2, 76.2, 75.7, 94.9, 73.7, 43.4, 12.7),
    "GPT-4-Turbo-0409": (88.2, 72.2, 73.4, 93.7, 63.9, 45.7, 18.3),
    "Gemini-1.5-Pro": (83.5, 74.6, 67.7, 90.8, 57.1, 34.1, 18.7),
    "Claude-3-Opus": (84.9, 72.0, 60.1, 95.0, 68.4, 34.6, 11.7),
    "Llama-3-70B": (81.7, 69.0, 50.4, 93.0, 49.2, 28.7, None),
    "Codestral": (81.1, 68.2, None, None, 51.1, 31.0, 2.7),
}
"""The bars of `performance.png`; where they differ from the tables, both are as published."""


def in_table_units(task: str, value: float) -> float:
    """A share or rating as the tables write it."""
    return value * OUT_OF.get(task, 100.0)
