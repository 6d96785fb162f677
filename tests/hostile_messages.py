"""Messages to hold against every gRPC call: grown from the descriptors, or bent from good ones.

A message is either built field by field from its descriptor, or a good one with a few fields
replaced. Strings are what breaks things elsewhere: path parts, other people's identifiers, control
characters, 10,000 characters; numbers are negative, huge and nearly right; enum values are unknown;
lists have duplicates. Real values are mixed in, so that the calls get past their first check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from csi.rpc import csi_pb2 as pb

SECRET = "the-secret-marker-that-must-not-leak"

# Found at random, but the same ones in every run: a failure can be had again.
DETERMINISTIC: dict[str, Any] = {
    "derandomize": True,
    "database": None,
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "print_blob": False,
}

_MIB = 1 << 20
_NASTY = (
    "a",
    "",
    " ",
    ".",
    "..",
    "../../etc/passwd",
    "/",
    "/dev/null",
    "a/b",
    "-rf",
    "--force",
    "$(reboot)",
    "`id`; echo",
    "a b\tc",
    "line\nline",
    "nul\0byte",
    "\x7f\x1b[31m",
    "%s%n{0}",
    "ünïcödé-名前-🜁",
    "\u202eright-to-left",
    "\ufeff",
    "v" + "0" * 28,
    "s" + "f" * 28,
    "g" + "a" * 28,
    "V" + "0" * 28,
    "v" + "0" * 27,
    "v" + "０" * 28,  # full-width digits: digits to str.isdigit()
    "vg0/thin",
    "xlss-v" + "0" * 28,
    "x" * 128,
    "x" * 129,
    "名" * 1365,  # the longest that passes as a text, and three times as long in a header
    "y" * 10_000,
    "é" * 10_000,
)
_NUMBERS = (
    *(0, 1, -1, 2, 511, 512, 4095, 4096),
    *(_MIB - 1, _MIB, 4 * _MIB, 16 * _MIB, 64 * _MIB, 64 * _MIB + 1, 1 << 30, 1 << 40),
    *((1 << 31) - 1, -(1 << 31), (1 << 32) - 1, (1 << 62), (1 << 63) - 1, -(1 << 63)),
    (1 << 64) - 1,
)
_FLOATS = (0.0, -1.0, 1e308, float("inf"), float("nan"))
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}
_MAX_DEPTH = 5

Part = Any  # FieldDescriptor: two classes of it, by the implementation of protobuf
Path = tuple[tuple[Part, int], ...]  # fields to go through; the number is for repeated ones


@dataclass(frozen=True)
class Vocabulary:
    """Good values, by the name of the field (or of the map, for its keys and values).

    A callable is asked when a message is made: for identifiers that are known only by then.
    """

    values: Mapping[str, Sequence[Any] | Callable[[], Sequence[Any]]] = field(default_factory=dict)
    pairs: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)

    def of(self, name: str) -> st.SearchStrategy[Any]:
        """One of the good values."""
        found = self.values.get(name, ())
        if not callable(found):
            return st.sampled_from(found) if found else st.nothing()

        def pick(number: int) -> Any:
            values = found()
            return values[number % len(values)] if values else ""

        return st.integers(0, 97).map(pick)


def methods_of(*services: ServiceDescriptor) -> list[MethodDescriptor]:
    """All calls of the services: one that is added to a protocol is found by itself."""
    return [method for service in services for method in service.methods]


def requests(
    method: MethodDescriptor, vocabulary: Vocabulary, good: Sequence[Message] = ()
) -> st.SearchStrategy[Message]:
    """Requests for a call; `good` ones are bent, besides those built from the descriptor."""
    kind: type[Message] = GetMessageClass(method.input_type)
    grown = _message(kind, vocabulary, 0)
    if not good or not kind.DESCRIPTOR.fields:
        return grown
    return st.one_of(*[_bent(good, vocabulary)] * 4, grown)


def swept(message: Message, *, maps: bool = True) -> Iterator[Message]:
    """The message with one part replaced: every part, by every hostile value for its kind.

    Without ``maps`` their keys and values stay as they are.
    """
    for path in _paths(message):
        part = path[-1][0]
        if _is_map(part) and not maps:
            continue
        for value in _hostile_values(part, message, path):
            bent = type(message)()
            bent.CopyFrom(message)
            target = _follow(bent, path[:-1])
            target.ClearField(part.name)
            _set(target, part, value)
            yield bent


def examples(number: int) -> settings:
    """The settings of a deterministic run with that many requests."""
    return settings(max_examples=number, **DETERMINISTIC)


@st.composite
def _message(draw: st.DrawFn, kind: type[Message], vocabulary: Vocabulary, depth: int) -> Message:
    message = kind()
    for part in _one_of_each(draw, kind):
        if depth < _MAX_DEPTH and draw(st.sampled_from((True, True, True, False))):
            _set(message, part, draw(_field(part, vocabulary, depth)))
    return message


@st.composite
def _bent(draw: st.DrawFn, good: Sequence[Message], vocabulary: Vocabulary) -> Message:
    message = type(good[0])()
    message.CopyFrom(draw(st.sampled_from(good)))
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3, 0)))):
        target = message
        while inner := [each for part in _parts(target) for each in _inside(target, part)]:
            if not draw(st.booleans()):
                break
            target = draw(st.sampled_from(inner))
        if parts := _parts(target):
            part = draw(st.sampled_from(parts))
            target.ClearField(part.name)
            if draw(st.sampled_from((True, True, True, True, False))):
                _set(target, part, draw(_field(part, vocabulary, 1)))
    return message


def _paths(message: Message, above: Path = ()) -> Iterator[Path]:
    """Ways to all parts of the message and of the messages in it."""
    for part in _parts(message):
        yield (*above, (part, 0))
        for number, inner in enumerate(_inside(message, part)):
            yield from _paths(inner, (*above, (part, number)))


def _follow(message: Message, path: Path) -> Message:
    for part, number in path:
        message = _inside(message, part)[number]
    return message


def _hostile_values(part: Part, message: Message, path: Path) -> list[Any]:
    if part.cpp_type in _INTEGERS:
        return [number for number in _NUMBERS if _fits(part, number)]
    if part.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return [*part.enum_type.values_by_number, 99, -1]
    if part.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return [[text] for text in _NASTY] if part.is_repeated else list(_NASTY)
    if _is_map(part) and not _is_secret(part):
        had = dict(getattr(_follow(message, path[:-1]), part.name))
        values = [{**had, key: text} for key in list(had)[:2] for text in _NASTY]
        return [*({**had, text: "1"} for text in _NASTY), *values]
    if part.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE and not _is_map(part):
        empty = GetMessageClass(part.message_type)()
        return [[], [empty], [empty, empty]] if part.is_repeated else [empty]
    return []


def _one_of_each(draw: st.DrawFn, kind: type[Message]) -> list[Part]:
    """All fields, but only one of each oneof."""
    descriptor = kind.DESCRIPTOR
    alone = [part for part in descriptor.fields if part.containing_oneof is None]
    return alone + [draw(st.sampled_from(tuple(choice.fields))) for choice in descriptor.oneofs]


def _parts(message: Message) -> tuple[Part, ...]:
    return tuple(message.DESCRIPTOR.fields)


def _inside(message: Message, part: Part) -> Sequence[Message]:
    """The messages that a field holds."""
    if part.cpp_type != FieldDescriptor.CPPTYPE_MESSAGE or _is_map(part):
        return ()
    if part.is_repeated:
        return tuple(getattr(message, part.name))
    return (getattr(message, part.name),) if message.HasField(part.name) else ()


def _set(message: Message, part: Part, value: Any) -> None:
    if _is_map(part):
        getattr(message, part.name).update(value)
    elif part.is_repeated:
        getattr(message, part.name).extend(value)
    elif part.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        getattr(message, part.name).CopyFrom(value)
    else:
        setattr(message, part.name, value)


def _is_map(part: Part) -> bool:
    entry = part.message_type
    return entry is not None and bool(entry.GetOptions().map_entry)


def _is_secret(part: Part) -> bool:
    return bool(part.GetOptions().Extensions[pb.csi_secret])


def _field(part: Part, vocabulary: Vocabulary, depth: int) -> st.SearchStrategy[Any]:
    if _is_map(part):
        return _pairs(part, vocabulary)
    one = _single(part, vocabulary, depth)
    if not part.is_repeated:
        return one
    twice = one.map(lambda value: [value, value])
    return st.one_of(st.lists(one, min_size=1, max_size=3), twice, st.just([]))


def _fits(part: Part, number: int) -> bool:
    low, high = _INTEGERS[part.cpp_type]
    return low <= number <= high


def _single(part: Part, vocabulary: Vocabulary, depth: int) -> st.SearchStrategy[Any]:
    kind = part.cpp_type
    if kind == FieldDescriptor.CPPTYPE_MESSAGE:
        grown = _message(GetMessageClass(part.message_type), vocabulary, depth + 1)
        return st.one_of(vocabulary.of(part.name), grown)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return st.sampled_from([*part.enum_type.values_by_number, 99, -1])
    if kind in _INTEGERS:
        low, high = _INTEGERS[kind]
        fitting = [number for number in _NUMBERS if low <= number <= high]
        return st.one_of(vocabulary.of(part.name), st.sampled_from(fitting), st.integers(low, high))
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return st.one_of(st.sampled_from(_FLOATS), st.floats())
    if part.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=64)
    return st.one_of(vocabulary.of(part.name), vocabulary.of(part.name), _strings())


def _strings() -> st.SearchStrategy[str]:
    return st.one_of(st.text(min_size=1, max_size=40), st.sampled_from(_NASTY))


def _pairs(part: Part, vocabulary: Vocabulary) -> st.SearchStrategy[dict[str, str]]:
    if _is_secret(part):
        keys = st.one_of(vocabulary.of(part.name), _strings())
        values = st.sampled_from([SECRET, f"{SECRET}\n", SECRET * 300])
        return st.dictionaries(keys, values, max_size=2)
    known = vocabulary.pairs.get(part.name, ())
    good = st.lists(st.sampled_from(known), max_size=4).map(dict) if known else st.nothing()
    keys = st.one_of(st.sampled_from([key for key, _ in known]) if known else st.nothing())
    bent = st.dictionaries(st.one_of(keys, _strings()), _strings(), max_size=3)
    return st.one_of(good, good, bent)
