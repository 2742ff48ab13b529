"""Two hundred texts to count, the same on every run: code in five languages, Markdown, JSON, digits, strange signs."""

from __future__ import annotations

import json
import random

KINDS = (
    "python",
    "go",
    "c",
    "typescript",
    "rust",
    "markdown",
    "json",
    "csv",
    "chinese",
    "emoji",
    "bytes",
    "spaces",
)
COUNT = 200

_NAMES = (
    "price count item till total_cents lineItems HTTPServer parse_json i x2 _private na\u00efve"
)
_WORDS = "the till adds every price it's given and the total isn't what we'd expect so rounding won't help you're"
_CHINESE = (
    "\u6536\u94f6\u53f0\u8ba1\u7b97\u6bcf\u4ef6\u5546\u54c1\u7684\u4ef7\u683c\u7136\u540e\u6253\u5370\u603b\u989d\u5982\u679c"
    "\u6298\u6263\u65e0\u6548\u5219\u4e0d\u6539\u53d8\u7ed3\u679c\u7a0b\u5e8f\u5458\u9700\u8981\u68c0\u67e5\u4ee3\u7801"
)
_ENDS = ("\u3002\uff11\uff12\uff13", "\uff0c\u7b2c3\u7ae0\u3002", "\u300c\u5f15\u7528\u300d")
_SIGNS = (
    "\U0001f600 \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u2705 \u26a0\ufe0f \U0001f680"
    " \u2764\ufe0f \u00e9 \u00f8 \u00bd \u00b2 \u2122 \u2026 \u2013 \u201cquoted\u201d \u00ab \u00bb \u2192 \u2260"
)
_BLANKS = ("", "\u00a0", "\u3000!", "\u200b")
_CODE = {
    "python": "def {a}({b}: int = {n}) -> str:\n    return f'{{{b}!r}}' if {c} else None\n",
    "go": 'func {a}({b} int) (string, error) {{\n\tif {b} > {n} {{\n\t\treturn "", err\n\t}}\n}}\n',
    "c": "static int {a}(const char *{b})\r\n{{\r\n\treturn {b}[{n}] != 0x{h:02X};\r\n}}\r\n",
    "typescript": "export const {a} = async ({b}?: {c}[]) => {{ await get(`/${{{b}}}`); }};",
    "rust": "impl<'a> {a} {{ fn {b}(&mut self) -> Option<&'a str> {{ self.{c}.get({n})? }} }}",
    "markdown": "## {b} {c}\n\n* **{w}** `{a}`\n1. [{w}](docs/{b}.md#L{h})\n\n> {w} isn't {n}\n",
}


def texts() -> list[tuple[str, str]]:
    """Each text with its kind, in turn."""
    rng = random.Random(20260815)
    return [(KINDS[n % len(KINDS)], _text(KINDS[n % len(KINDS)], rng)) for n in range(COUNT)]


def _text(kind: str, rng: random.Random) -> str:
    a, b, c = rng.sample(_NAMES.split(), 3)
    n = rng.choice([rng.randint(0, 99), rng.randint(100, 10**9), round(rng.random() * 1000, 2)])
    w, other = rng.sample(_WORDS.split(), 2)
    if kind in _CODE:
        return _CODE[kind].format(a=a, b=b, c=c, n=n, w=w, h=rng.randint(0, 255))
    match kind:
        case "json":
            return json.dumps({a: [n, None, True], b: {c: w}}, indent=rng.choice([None, 2]))
        case "csv":
            rows = [[rng.randint(0, 10 ** rng.randint(1, 9)) for _ in range(4)] for _ in range(2)]
            return "\n".join(",".join(map(str, row)) for row in rows) + "\n"
        case "chinese":
            start = rng.randint(0, 20)
            return _CHINESE[start : start + rng.randint(4, 14)] + a + rng.choice(_ENDS)
        case "emoji":
            return " ".join(rng.sample(_SIGNS.split(" "), 6)) + rng.choice(_BLANKS)
        case "bytes":
            return bytes(rng.randrange(1, 256) for _ in range(14)).decode("utf-8", "replace")
    blank = rng.choice(["  ", "\t", "\n\n", " \n", "\r\n"]) * rng.randint(1, 4)
    return f"{blank}{w}   {other}" + "\n" * rng.randint(0, 4)
