"""The rules about private data: addresses, telephone numbers, numbers of identity cards and keys are masked.

Each finds what has a form of its own, so a number that only might be one stays. A mask is found by no rule.
"""

import re

EMAIL, PHONE, IDENTITY, KEY = "[EMAIL]", "[PHONE]", "[ID]", "[KEY]"
"""The masks."""
_EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9][A-Za-z0-9-]{0,62}\.){1,8}[A-Za-z]{2,24}"
    r"(?![A-Za-z0-9-])"
)
_NOT_BEFORE, _NOT_AFTER = r"(?<![A-Za-z0-9_.+/=-])", r"(?![A-Za-z0-9_/=]|[.-]\d)"
_PHONE = re.compile(
    _NOT_BEFORE
    + "(?:"
    + "|".join(
        (
            r"(?:(?:\+|00)?86[- ]?)?1[3-9]\d(?:\d{8}|[- ]\d{4}[- ]\d{4})",  # a mobile of China
            r"(?:\(0\d{2,3}\) ?|0\d{2,3}-)[2-9]\d{6,7}",  # a landline of China
            r"\+[1-9]\d{0,2}(?:[- ]\(?\d{1,4}\)?){2,5}",  # +44 20 7946 0000
            r"\+[1-9]\d{9,13}",
            r"(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[-.])[2-9]\d{2}[-.]\d{4}",  # of North America
        )
    )
    + ")"
    + _NOT_AFTER
)
# Six digits of the place, the date of birth, three digits and a check digit (GB 11643).
_IDENTITY = re.compile(
    r"(?<![A-Za-z0-9])[1-9]\d{5}(?:18|19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx](?![A-Za-z0-9])"
)
_FACTORS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECK = "10X98765432"
_KEY = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    + "|".join(
        (
            r"A(?:KIA|SIA)[0-9A-Z]{16}",
            r"gh[opsur]_[A-Za-z0-9]{36,251}|github_pat_[A-Za-z0-9_]{50,100}|glpat-[A-Za-z0-9_-]{20,64}",
            r"sk-(?:[A-Za-z]{2,10}-)?[A-Za-z0-9_-]{20,200}|hf_[A-Za-z0-9]{30,40}|AIza[A-Za-z0-9_-]{35}",
            r"xox[abprs]-[A-Za-z0-9-]{10,100}|[rs]k_(?:live|test)_[A-Za-z0-9]{16,100}",
            r"eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,4000}\.[A-Za-z0-9_-]{10,1000}",
        )
    )
    + r")(?![A-Za-z0-9_-])"
    + r"|-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----[A-Za-z0-9+/=\s]{16,16384}-----END [A-Z ]{0,20}PRIVATE KEY-----"
)


def emails(text: str) -> str:
    """Addresses of e-mail become [EMAIL]."""
    return _EMAIL.sub(EMAIL, text) if "@" in text else text


def phones(text: str) -> str:
    """Telephone numbers become [PHONE]: those of China and North America, and others with + and a country."""
    return _PHONE.sub(PHONE, text)


def identity_numbers(text: str) -> str:
    """The 18 digits of a Chinese identity card become [ID], where the date and the check digit are right."""
    return _IDENTITY.sub(lambda match: IDENTITY if _checks(match[0]) else match[0], text)


def _checks(number: str) -> bool:
    total = sum(factor * int(digit) for factor, digit in zip(_FACTORS, number, strict=False))
    return _CHECK[total % 11] == number[-1].upper()


def secrets(text: str) -> str:
    """Keys and tokens of known forms, and private keys between their BEGIN and END, become [KEY]."""
    return _KEY.sub(KEY, text)
