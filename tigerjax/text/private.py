"""The rules about private data: addresses, telephone numbers, numbers of identity cards and keys are masked.

Each finds what has a form of its own, so a number that only might be one stays. A mask is found by no rule.
"""

import re
from collections.abc import Callable

EMAIL, PHONE, IDENTITY, KEY = "[EMAIL]", "[PHONE]", "[ID]", "[KEY]"
"""The masks."""
_WIDE = {0xFF10 + digit: ord("0") + digit for digit in range(10)}
_WIDE |= {ord(wide): ord(half) for wide, half in zip("＋（）－Ｘｘ＠．", "+()-Xx@.", strict=True)}
_HAS_WIDE = re.compile("[０-９＋（）－Ｘｘ＠．]")
_DASH = re.compile(r"(?<=[0-9)])[‐‑–—](?=[0-9])")
# The method of a product of matrices, as in a@b.sum(0), is no address; joe@tiger.org(office) is one.
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])(?!git@)[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9][A-Za-z0-9-]{0,62}\.){1,8}"
    r"[A-Za-z]{2,24}(?![A-Za-z0-9-]|\.[A-Za-z])(?:(?!\()|(?<=\.com)|(?<=\.org)|(?<=\.net)|(?<=\.edu)|(?<=\.cn))"
)
_NOT_BEFORE = (
    r"(?<![A-Za-z0-9_.+=$¥￥€£-])(?:(?<!/)|(?<=1[0-9]{10}/)|(?<=-[0-9]{7}/)|(?<=-[0-9]{8}/))"  # several with / between
)
_NOT_AFTER = (
    r"(?![A-Za-z0-9_=]|[.-][0-9]|-[A-Za-z]|/(?!\+|1[3-9][0-9]{9}(?![0-9])|0[0-9]{2,3}-)"
    r"| ?(?:元|人民币|[美日欧]元|美金|块钱|[万亿吨股]|RMB|USD|CNY))"  # a sum or an amount
)
_AREA = "0(?:10|2[0-57-9]|[3-9][0-9]{2})"
_LOCAL = "(?:[2-9][0-9]{6,7}|[2-9][0-9]{2,3}[- ][0-9]{4})"
_PHONE = re.compile(
    _NOT_BEFORE
    + "(?:"
    + "|".join(
        (
            r"(?:(?:\+|00)?86[- ]?)?1[3-9][0-9](?:[0-9]{8}|[- ][0-9]{4}[- ][0-9]{4})",  # a mobile of China
            rf"(?:\({_AREA}\)[- ]?|{_AREA}-){_LOCAL}|(?:\+|00)86[- ]?\(?{_AREA[:1]}?{_AREA[1:]}\)?[- ]?{_LOCAL}",
            r"[48]00-(?:[0-9]{3}-[0-9]{4}|[0-9]{4}-[0-9]{3})",  # a service number of China
            r"\+[2-79](?:[- ]?(?:\([0-9]{1,4}\)[- ]?)?[0-9]){8,14}",  # +44 20 7946 0000, +49 (0)30 901820
            r"\+8(?!6)(?:[- ]?(?:\([0-9]{1,4}\)[- ]?)?[0-9]){8,14}",
            r"\+1[- .]?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[- .]?)[2-9][0-9]{2}[- .]?[0-9]{4}",
            r"(?:1[- .])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[-.])[2-9][0-9]{2}[-.][0-9]{4}",  # of North America
        )
    )
    + ")"
    + _NOT_AFTER
)
_OTHER_NUMBER = re.compile(r"(?:[单编货件列型票]号|股票代码|ISBN|ISSN|EAN)[:： ]{0,2}\Z")
"""What stands before the number of an order or a thing."""
# Six digits of the place, the date of birth, three digits and a check digit (GB 11643).
_IDENTITY = re.compile(
    r"(?<![A-Za-z0-9])[1-9][0-9]{5}([ -]?)(?:18|19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])\1"
    r"[0-9]{3}[0-9Xx](?![A-Za-z0-9])"
)
_FACTORS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECK = "10X98765432"
_KEY = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    + "|".join(
        (
            r"A(?:KIA|SIA)[0-9A-Z]{16}",
            r"gh[opsur]_[A-Za-z0-9]{36,251}|github_pat_[A-Za-z0-9_]{50,100}|glpat-[A-Za-z0-9_-]{20,64}",
            # Names of packages and of CSS classes have no digits, or no capital letters.
            r"sk-(?=[A-Za-z_-]{0,200}[0-9])(?=[a-z0-9_-]{0,200}[A-Z])(?:[A-Za-z]{2,10}-)?[A-Za-z0-9_-]{20,200}",
            r"hf_[A-Za-z0-9]{30,40}|AIza[A-Za-z0-9_-]{35}",
            r"xox[abprs]-[A-Za-z0-9-]{10,100}|[rs]k_(?:live|test)_[A-Za-z0-9]{16,100}",
            r"eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,1000}",
        )
    )
    + r")(?![A-Za-z0-9_-])"
    + r"|-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----[A-Za-z0-9+/=\s]{16,16384}-----END [A-Z ]{0,20}PRIVATE KEY-----"
)


def _masked(form: re.Pattern[str], mask: str, text: str, is_one: Callable[[re.Match[str]], bool]) -> str:
    """The text with each match that `is_one` masked. Full-width digits and signs, which Chinese text often has, are
    matched as half-width ones; each is one character, so the places are the same."""
    plain = text.translate(_WIDE) if _HAS_WIDE.search(text) else text
    plain = _DASH.sub("-", plain)
    out: list[str] = []
    at = 0
    for match in form.finditer(plain):
        if is_one(match):
            out += text[at : match.start()], mask
            at = match.end()
    return "".join([*out, text[at:]]) if out else text


def emails(text: str) -> str:
    """Addresses of e-mail become [EMAIL]; git@, the user of a repository's address, is nobody's."""
    return _masked(_EMAIL, EMAIL, text, lambda _: True) if "@" in text or "＠" in text else text


def phones(text: str) -> str:
    """Telephone numbers become [PHONE]: those of China and North America, and others with + and a country.

    Sums of money, and numbers behind the word for an order or a thing, stay."""
    return _masked(_PHONE, PHONE, text, lambda match: not _OTHER_NUMBER.search(match.string, *_before(match)))


def _before(match: re.Match[str]) -> tuple[int, int]:
    return max(0, match.start() - 8), match.start()


def identity_numbers(text: str) -> str:
    """The 18 digits of a Chinese identity card become [ID], where the date and the check digit are right."""
    return _masked(_IDENTITY, IDENTITY, text, _checks)


def _checks(match: re.Match[str]) -> bool:
    number = match[0].replace(" ", "").replace("-", "")
    total = sum(factor * int(digit) for factor, digit in zip(_FACTORS, number, strict=False))
    return _CHECK[total % 11] == number[-1].upper()


def secrets(text: str) -> str:
    """Keys and tokens of known forms, and private keys between their BEGIN and END, become [KEY]."""
    return _KEY.sub(KEY, text)
