"""What makes an input almost right. All chance comes from the random numbers that are passed."""

from __future__ import annotations

import io
import json
import re
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

Value = Any
"""What JSON has, and `Raw` and `Pairs` anywhere in it."""

BYTES = (
    b"\0", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\x80", b"\x1f\x8b\x08\0", b"PK\x03\x04",
    b"\r", b"\r\n",
    b"\n", b"\n\n", b"\t", b'"', b"'", b"\\", b",", b":", b": ", b"- ", b"#", b"---\n", b"...\n", b"[", b"]", b"{",
    b"}",
    b" " * 3000, b"[" * 3000, b'{"a":' * 1500, b"\xe2\x80\xa8", b"\xe2\x80\xae", b"\xc2\x9b31m", b"\x1b[2J\x07",
    b"<!--" * 400,
    b"../../../x", b"%s%n", b"{{", b"{%", b"${HOME}", b"`k=0`", b"&a ", b"*a", b"<<: ", b"!!python/name:os.system ",
)  # fmt: skip
"""What byte mutations insert."""
SCALARS = (
    "null", "true", "false", "0", "-1", "1", "2", "1.0", "0.5", "-0.0", "1e308", "-1e308", "1e999", "1e-400", "NaN",
    "Infinity", "-Infinity", "9" * 30, "-" + "9" * 400, "9" * 5000, "2147483648", "9223372036854775808", "1_000",
    "0x10", "01",
    '""', '" "', '"\\u0000"', '"\\ud800"', '"\\udfff\\ud800"', '"\\u001b[31mred"', '"\\u202e"', '"a\\nb"', '"\\n"',
    '"' + "x" * 5000 + '"',
    '"../../x"', '"/etc/passwd"', '"~root/x"', '"-"', '"."', '".."', '"org/name"', '"org/name@main"', '"base"',
    '"s3://a/b"',
    '"\\u00e9\\u0301"', '"NaN"', '"1"', '"a:b=c"', '"*"', '"[a"', '"(a+)+$"', '"(?i)q_proj"', '"a{99999999999}"',
    '"\\\\1"', '"cuda:99"',
    "[]", "{}", "[[]]", "[null]", "[{}]", '{"": 1}', '{"a": {"a": {}}}', "[" * 600 + "]" * 600,
    "[1, \"a\", null, true, 1e400]",
)  # fmt: skip
"""What stands in place of a value, as JSON (some of it almost)."""
YAML_SCALARS = (
    "0001-01-01 00:00:00+23:00", "9999-12-31 23:59:59-23:00", "2001-13-40", "!!timestamp x", "!!int ''", "!!int x",
    "!!float ''",
    "!!float x", "!!bool maybe", "!!binary '='", "!!binary \"\\u00e9\"", "!!set {a, b}", "!!omap [a]",
    "!!pairs [a: 1]", "!!str", "!!seq 1",
    "!!map []", "!!python/object/apply:os.system [true]", "!local x", "0x" + "f" * 5000, "0b" + "1" * 20000,
    "0o7" + "7" * 6000, "1:2:3:4",
    ":".join(["59"] * 3000), ".inf", "-.INF", ".NaN", "~", "yes", "0o17", "&a 1", "*a", "{<<: 1}", "{<<: [1]}",
    "{<<: {a: 1}}", "{[a]: 1}", "{{}: 1}",
    "{a: 1, a: 2}", "? a", "|\n  x", ">-\n  x", "'it''s'", "\"\\x1b[31m\"", "\"\\U0001F600\"", "\"\\udc80\"",
    "2001-01-01", "12:30:45", "=",
)  # fmt: skip
"""The same, of YAML alone."""
TOML_SCALARS = (
    "1979-05-27T07:32:00Z", "1979-05-27", "07:32:00", "'''x'''", '"""x\ny"""', "inf", "nan", "-nan", "0xff", "0o7",
    "0b1", "1_0", "{a = 1}",
    "{a.b = 1}", "[1, 'a', {b = 2}]", '"\\u0000"', '"\\u001b[31m"', '"\\U0010FFFF"', "'" + "x" * 5000 + "'",
    "9" * 400, "'../x'", "'/dev/null'",
    "'/dev/zero/x'", "''", "'~'", "'~nobody/x'", "[" * 500 + "]" * 500, "true", "-1", "0", "0.5", "1e400", "'cuda:0'",
    "'1'", "'org/name'",
)  # fmt: skip
"""The same, of TOML alone."""
_SCALAR = re.compile(
    rb'"(?:[^"\\\n]|\\.){0,60}"|-?\b\d+(?:\.\d+)?\b|\btrue\b|\bfalse\b|\bnull\b|(?<=: )[^\n{\["]{1,40}'
)


class Raw(str):
    """Text that is written as it is, in place of a value."""


class Pairs(tuple[tuple[str, Value], ...]):
    """An object some of whose names may be there twice."""


def mutated_bytes(data: bytes, rng: Random, others: Sequence[bytes] = (), scalars: Sequence[str] = SCALARS) -> bytes:
    """A few changes of bytes, of places that hold something; others are what is spliced in."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        data = rng.choice(_OPERATIONS)(data, rng, others, scalars)
    return data[: 1 << 20]


def _place(data: bytes, rng: Random) -> int:
    """A place in the data; of several that were drawn the first that holds anything, as pages of SQLite are empty."""
    places = [rng.randrange(len(data)) for _ in range(4)] if data else [0]
    return next((place for place in places if data and data[place]), places[0])


def _flip(data: bytes, rng: Random, *_: Any) -> bytes:
    if not data:
        return data
    at = _place(data, rng)
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def _set(data: bytes, rng: Random, *_: Any) -> bytes:
    at = _place(data, rng)
    return data[:at] + bytes([rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))]) + data[at + 1 :]


def _cut(data: bytes, rng: Random, *_: Any) -> bytes:
    return data[: _place(data, rng)]


def _delete(data: bytes, rng: Random, *_: Any) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + rng.choice((1, 1, 2, 4, 8, 32, 200)) :]


def _double(data: bytes, rng: Random, *_: Any) -> bytes:
    at = _place(data, rng)
    part = data[at : at + rng.choice((1, 4, 16, 64, 400))]
    return data[:at] + part * rng.choice((2, 2, 3, 20)) + data[at + len(part) :]


def _insert(data: bytes, rng: Random, *_: Any) -> bytes:
    at = _place(data, rng)
    return data[:at] + rng.choice(BYTES) + data[at:]


def _swap(data: bytes, rng: Random, *_: Any) -> bytes:
    first, second = sorted((_place(data, rng), _place(data, rng)))
    size = rng.choice((1, 8, 60))
    return (
        data[:first]
        + data[second : second + size]
        + data[first + size : second]
        + data[first : first + size]
        + data[second + size :]
    )


def _splice(data: bytes, rng: Random, others: Sequence[bytes], _: Any) -> bytes:
    other = rng.choice(others) if others else data
    return data[: _place(data, rng)] + other[_place(other, rng) :]


def _scalar(data: bytes, rng: Random, _: Any, scalars: Sequence[str]) -> bytes:
    """Another value in place of one of a text."""
    found = [match.span() for match in _SCALAR.finditer(data[: 1 << 16])]
    if not found:
        return _insert(data, rng)
    start, end = rng.choice(found)
    return data[:start] + rng.choice(scalars).encode("utf-8", "surrogatepass") + data[end:]


_OPERATIONS: tuple[Callable[[bytes, Random, Sequence[bytes], Sequence[str]], bytes], ...] = (
    _flip, _flip, _set, _cut, _delete, _delete, _double, _insert, _swap, _splice, _scalar, _scalar, _scalar, _scalar,
)  # fmt: skip


def any_value(rng: Random, scalars: Sequence[str] = SCALARS, depth: int = 3) -> Value:
    """Any value."""
    kind = rng.random()
    if kind < 0.6 or depth == 0:
        return Raw(rng.choice(scalars))
    if kind < 0.7:
        return rng.choice((rng.randrange(-5, 100), rng.uniform(-2, 2), 10 ** rng.randrange(25), 2 ** rng.randrange(80)))
    if kind < 0.8:
        return "".join(
            rng.choice('ab 1/.:=,*[]{}\\"\n\t\0\x1b\x9béß\u202e\ud800\U0001f600') for _ in range(rng.randrange(12))
        )
    if kind < 0.9:
        return [any_value(rng, scalars, depth - 1) for _ in range(rng.choice((0, 1, 1, 2, 3, 30)))]
    return {
        rng.choice(("a", "b", "", "name", "id", "\x1b[1m")): any_value(rng, scalars, depth - 1)
        for _ in range(rng.randrange(4))
    }


def mutated_value(value: Value, rng: Random, scalars: Sequence[str] = SCALARS) -> Value:
    """A value with a few of its parts changed, left out, renamed or doubled."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        value = _changed(value, rng, scalars)
    return value


def _changed(value: Value, rng: Random, scalars: Sequence[str]) -> Value:
    if isinstance(value, Pairs) or not isinstance(value, (dict, list)) or not value or rng.random() < 0.1:
        return any_value(rng, scalars)
    if isinstance(value, list):
        place = rng.randrange(len(value))
        match rng.randrange(8):
            case 0:
                return value[:place] + value[place + 1 :]
            case 1:
                return value + [value[place]] * rng.choice((1, 2, 50))
            case _:
                return [*value[:place], _changed(value[place], rng, scalars), *value[place + 1 :]]
    name = rng.choice(list(value))
    match rng.randrange(10):
        case 0:
            return {key: part for key, part in value.items() if key != name}
        case 1:
            new = rng.choice((name.upper(), name + " ", "x", "", "\ud800", "\x1b[31m", "a" * 300, name[:-1]))
            return {new if key == name else key: part for key, part in value.items()}
        case 2:
            return Pairs((*value.items(), (name, any_value(rng, scalars))))
        case 3:
            return value | {rng.choice(("x", "version", "extra\n", "", name + "2")): any_value(rng, scalars)}
        case _:
            return value | {name: _changed(value[name], rng, scalars)}


def written(value: Value, *, ascii_only: bool = True) -> str:
    """A value as JSON, with what is raw as it is."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return _object(value, ascii_only)
    if isinstance(value, dict):
        return _object(tuple(value.items()), ascii_only)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(written(part, ascii_only=ascii_only) for part in value) + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


def _object(pairs: Sequence[tuple[str, Value]], ascii_only: bool) -> str:
    inside = (
        f"{json.dumps(key, ensure_ascii=ascii_only)}: {written(part, ascii_only=ascii_only)}" for key, part in pairs
    )
    return "{" + ", ".join(inside) + "}"


def json_bytes(value: Value, rng: Random, scalars: Sequence[str] = SCALARS) -> bytes:
    """A changed value as a file: JSON that may be damaged a little as well."""
    text = written(mutated_value(value, rng, scalars), ascii_only=rng.random() < 0.7)
    data = text.encode("utf-8", "surrogatepass")
    return mutated_bytes(data, rng, scalars=scalars) if rng.random() < 0.1 else data


def safetensors_bytes(header: Mapping[str, Any], data: bytes, rng: Random) -> tuple[bytes, bool]:
    """A safetensors file with a changed header or changed data, and whether the data alone was changed."""
    kind = rng.random()
    entries: Value = dict(header)
    if kind < 0.35:
        entries = mutated_value(entries, rng)
    elif kind < 0.6:
        name = rng.choice([key for key in entries if key != "__metadata__"])
        entry = dict(entries[name])
        part = rng.choice(("dtype", "shape", "data_offsets"))
        entry[part] = {
            "dtype": rng.choice(("F16", "BF16", "F64", "I8", "F8_E4M3", "C64", "x", "F4", "BOOL")),
            "shape": [rng.choice((0, 1, 4, 8, 32, 2**31, 2**62)) for _ in range(rng.randrange(4))],
            "data_offsets": [rng.choice((0, 4, 512, 2**40, len(data))), rng.choice((0, 512, len(data), 2**63))],
        }[part]
        entries[name] = entry
    elif kind < 0.9:
        numbers = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 20))):
            at = 4 * rng.randrange(len(data) // 4)
            special = (
                b"\0\0\xc0\x7f",
                b"\0\0\x80\x7f",
                b"\xff\xff\x7f\x7f",
                b"\1\0\0\0",
                b"\0\0\0\x80",
                rng.randbytes(4),
            )
            numbers[at : at + 4] = rng.choice(special)
        changed = bytes(numbers)
        return _framed(written(entries).encode(), changed), changed != data
    text = written(entries).encode("utf-8", "surrogatepass")
    if rng.random() < 0.2:
        text = mutated_bytes(text, rng)
    whole = _framed(text, data, rng if rng.random() < 0.15 else None)
    return (mutated_bytes(whole, rng) if kind >= 0.9 else whole), False


def _framed(text: bytes, data: bytes, rng: Random | None = None) -> bytes:
    length = (
        len(text) if rng is None else rng.choice((0, 1, max(0, len(text) - 1), len(text) + 1, 2**31, 2**63, 2**64 - 1))
    )
    return length.to_bytes(8, "little") + text + data


NAMES = (
    "../x", "/tmp/fuzz-escaped", "a/../../x", "..\\x", "C:\\x", "a\0b", "x" * 300, "\x1b[31m", "a/b/c/d/e", ".", "..",
    "", "a//b", "\u202e",
    "adapter_config.json/x", "ADAPTER_CONFIG.JSON", "rewritten.json", "__MACOSX/._x", ".DS_Store", "\udc80",
    "README.md", "more/adapter_config.json",
)  # fmt: skip
"""Names of what an archive holds."""


def archive_bytes(files: Mapping[str, bytes], rng: Random, kind: str) -> bytes:
    """A model packed as ".zip", ".tar" or ".tar.gz", with strange names, links and devices, and damaged bytes."""
    entries = list(files.items())
    folder = rng.choice(("", "", "model/", "a/b/"))
    entries = [(folder + name, data) for name, data in entries]
    for _ in range(rng.choice((0, 1, 1, 2))):
        entries.insert(rng.randrange(len(entries) + 1), (rng.choice(NAMES), rng.choice(list(files.values()) or [b""])))
    stream = io.BytesIO()
    if kind == ".zip":
        with zipfile.ZipFile(stream, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as packed:
            for name, data in entries:
                item = zipfile.ZipInfo(name.encode("utf-8", "replace").decode() or "x")
                if rng.random() < 0.05:
                    item.external_attr = rng.choice((0o120777, 0o020666, 0o010666, 0o040755)) << 16
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of a name that is there twice
                    packed.writestr(item, data)
    else:
        with tarfile.open(fileobj=stream, mode="w:gz" if kind == ".tar.gz" else "w") as tape:
            for name, data in entries:
                entry = tarfile.TarInfo(name or "x")
                entry.size = len(data)
                if rng.random() < 0.05:
                    entry.type = rng.choice(
                        (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE)
                    )
                    entry.linkname = rng.choice(NAMES)
                tape.addfile(entry, io.BytesIO(data))
    data = stream.getvalue()
    return mutated_bytes(data, rng) if rng.random() < 0.6 else data
