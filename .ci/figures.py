"""Put the embedded checkpoint's figures into both READMEs: `make figures`, after `make evaluate`.

They stand in `assets/checkpoint/evaluation.json`, and in the READMEs between two comments.
"""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
EVALUATION = REPOSITORY / "assets" / "checkpoint" / "evaluation.json"

SHARES = {
    "orders": "unseen orders",
    "noisy_orders": "orders, mean over kitchen at 6 to 24 dB",
    "digits": "digits of an unseen speaker",
    "late_digits": "digits, after a moment of silence",
    "phrases_worst": "phrases, unseen flite voices",
    "phrases_best": "phrases, unseen espeak voices",
    "sounds": "unseen sounds: reply or silence",
    "sound_replies": "unseen sounds: the right reply",
    "alarms": "synthetic alarms and music: reply or silence",
    "alarm_replies": "synthetic alarms and music: the right reply",
}
"""Which test of the evaluation each figure is."""
COUNTS = {"wake_words": "unseen wake words"}


@dataclass(frozen=True, slots=True)
class Text:
    """The tables of one README."""

    file: str
    answers: str
    """With a place for each figure."""
    false_replies: str
    """The head of the second table."""
    nothing: str
    names: dict[str, str]
    """What the evaluation's recordings are called here, where it is something else."""


TEXTS = (
    Text(
        "README.md",
        """\
| it hears | and replies | right, on recordings it had never heard |
|---|---|---|
| a coffee order | `Coming up: large dark roast latte, double shot.` | {orders}; {noisy_orders} in a noisy kitchen |
| a digit | `You said seven.` | {digits}; {late_digits} after a moment of silence |
| alexa, computer, jarvis, smart mirror, snowboy, view glass | `Did you say jarvis?` | {wake_words} |
| 44 everyday phrases in 288 wordings | a short answer | {phrases_worst} to {phrases_best}, of synthetic voices |
| a baby, fire, a chainsaw, a dog, a sneeze, a rooster | `I hear a dog barking.` | {sound_replies}; spoke up only when it should: {sounds} |
| an alarm | `I hear an alarm.` | {alarm_replies}; spoke up only when it should: {alarms} |
""",
        """\
| ten minutes of | replies that should not have been | among them |
|---|---|---|
""",
        "none",
        {
            "rain and sea waves": "rain and sea",
            "clock tick and helicopter": "clocks and helicopters",
            "babble": "people talking all at once",
            "foreign speech": "synthetic voices in other languages",
            "people in another language": "a person speaking Russian",
            "together": "all of it, one hour",
        },
    ),
    Text(
        "README.zh.md",
        """\
| 听到 | 回答 | 正确率（录音都不在训练数据里） |
|---|---|---|
| 点咖啡 | `Coming up: large dark roast latte, double shot.` | {orders}；嘈杂的厨房里 {noisy_orders} |
| 一个数字 | `You said seven.` | {digits}；先安静片刻再说 {late_digits} |
| alexa, computer, jarvis, smart mirror, snowboy, view glass | `Did you say jarvis?` | {wake_words} |
| 44 句日常用语，288 种说法 | 简短的回答 | 合成语音 {phrases_worst} 到 {phrases_best} |
| 婴儿哭、火、电锯、狗叫、打喷嚏、公鸡 | `I hear a dog barking.` | {sound_replies}；该开口时才开口 {sounds} |
| 警报 | `I hear an alarm.` | {alarm_replies}；该开口时才开口 {alarms} |
""",
        """\
| 连听十分钟 | 误答次数 | 例如 |
|---|---|---|
""",
        "无",
        {
            "kitchen": "厨房",
            "rain and sea waves": "雨声和海浪",
            "clock tick and helicopter": "钟表和直升机",
            "babble": "嘈杂人声",
            "foreign speech": "外语合成语音",
            "people in another language": "一位说俄语的真人",
            "together": "全部，共一小时",
        },
    ),
)


def tables(text: Text, evaluation: dict[str, Any]) -> str:
    """Both tables, as Markdown."""
    scores = {score["test"]: score for score in evaluation["scores"]}
    figures = {name: f"{100 * scores[test]['share']:.0f} %" for name, test in SHARES.items()}
    for name, test in COUNTS.items():
        figures[name] = f"{scores[test]['right']} / {scores[test]['trials']}"
    lines = [text.answers.format_map(figures), text.false_replies]
    for heard in evaluation["false_replies"]:
        name = text.names.get(heard["test"], heard["test"])
        said = sorted(set(heard["heard"]), key=heard["heard"].index)
        told = ", ".join(f"`{reply}`" for reply in said[:3]) + (", …" if said[3:] else "")
        lines.append(f"| {name} | {heard['replies']} | {told or text.nothing} |\n")
    return f"\n{lines[0]}\n{''.join(lines[1:])}\n"


def parts(text: Text) -> tuple[str, str, str]:
    """A README before, between and after the two comments."""
    content = (REPOSITORY / text.file).read_text("utf-8")
    found = re.fullmatch(
        r"(.*<!-- figures -->\n)(.*)(<!-- end of figures -->.*)", content, re.DOTALL
    )
    if found is None:
        raise SystemExit(f"{text.file}: the comments between which the figures stand are missing")
    return found[1], found[2], found[3]


def main() -> int:
    """Write them, or with `--check` say whether they are those of the evaluation."""
    evaluation = json.loads(EVALUATION.read_text("utf-8"))
    is_right = True
    for text in TEXTS:
        before, between, after = parts(text)
        try:
            wanted = tables(text, evaluation)
        except KeyError as error:
            raise SystemExit(
                f"{EVALUATION.name} has no test {error}; see .ci/figures.py"
            ) from error
        if "--check" in sys.argv[1:]:
            is_right = is_right and between == wanted
        else:
            (REPOSITORY / text.file).write_text(before + wanted + after, encoding="utf-8")
    if not is_right:
        print("the READMEs have other figures than evaluation.json: make figures", file=sys.stderr)
    return not is_right


if __name__ == "__main__":
    sys.exit(main())
