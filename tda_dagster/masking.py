"""Secrets inside URLs: passwords, signatures, tokens. What is shown does not show them.

What belongs here: what counts as a secret, and hiding it in text. A location that is needed again
to read a file is kept as it is (the copy of the manifest, the tracks of `dataset/index`), and
masked where it is shown: errors, rejects, the warehouse, recipes.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

_MASK = "***"

# Lengths are bounded, so that the time is in proportion to the text. A path makes one slash of two.
_USER = re.compile(r"(?P<scheme>[A-Za-z][\w+.\-]{0,30}:/{1,2})[^/\s?#]*@")
# A password with a slash is not valid, and people write it all the same. `zip://a::http://b` has
# no password, and neither has `http://a:80/b@c`.
_USER_WITH_SLASH = re.compile(
    r"(?P<scheme>[A-Za-z][\w+.\-]{0,30}://)[^/\s@:?#]{1,200}:(?!:|\d+(?:/|$))[^\s@]{1,500}@"
)
# Punctuation after a URL belongs to the sentence.
_PARAMETER = re.compile(
    r"(?P<name>[?&;#][\w.\-%\[\]]+)=[^&;#\s'\"<>]*?(?=[:,.)\]]{0,3}(?:[&;#\s'\"<>]|$))"
)
_SECRET_NAMES = re.compile(
    "sig|token|secret|pass|pwd|auth|cred|key|jwt|session|hmac|policy|hdn|accessid|code",
    re.IGNORECASE,
)


def masked(text: str) -> str:
    """`text` with `***` for user and password of each URL in it, and for the values of parameters
    whose names speak of a secret (`X-Amz-Signature`, `sig`, `token`, `api_key`, …)."""
    if "=" not in text and "@" not in text:
        return text
    text = _USER.sub(rf"\g<scheme>{_MASK}@", text)
    text = _USER_WITH_SLASH.sub(rf"\g<scheme>{_MASK}@", text)
    return _PARAMETER.sub(_masked_parameter, text)


def masked_values(value: Any) -> Any:
    """A nested value of mappings and lists with every string in it masked."""
    match value:
        case str():
            return masked(value)
        case Mapping():
            return {key: masked_values(each) for key, each in value.items()}
        case list() | tuple():
            return [masked_values(each) for each in value]
        case _:
            return value


def cut_secrets(error: BaseException) -> None:
    """Detach from an error those causes whose own words hold a secret, with what is behind them.

    Drivers put the whole URL into their errors, and who prints an error prints its causes.
    """
    for each in _chain(error):
        for cause in (each.__cause__, each.__context__):
            if cause is not None and masked(str(cause)) != str(cause):
                each.__cause__ = None
                each.__context__ = None
                each.__suppress_context__ = True


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__]


def _masked_parameter(found: re.Match[str]) -> str:
    return f"{found['name']}={_MASK}" if _SECRET_NAMES.search(found["name"]) else found[0]
