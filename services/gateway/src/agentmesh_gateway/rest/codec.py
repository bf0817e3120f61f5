"""Messages as JSON and back, compiled once per message type from its descriptor.

What differs from protobuf's own JSON: field names are those of the .proto file, enums are short and
lower-case, 64-bit integers are numbers where that is exact. Fields that are not set are left out if
they can be told from set ones (messages, `optional`, `oneof`, enums); all others are always there.
Unknown fields are refused, and a document's problems are all reported, each with its path.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from functools import cache
from typing import Any

from google.protobuf import any_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from agentmesh_gateway.descriptors import is_map, is_repeated, message_type
from agentmesh_gateway.rest import wellknown
from agentmesh_gateway.rest.enums import enum_codec
from agentmesh_gateway.rest.problems import Path, Problems
from agentmesh_gateway.rest.scalars import WrongValueError, scalar_decoder, scalar_encoder

JsonObject = dict[str, Any]
_Encode = Callable[[Any], Any]
_DecodeInto = Callable[[Any, Message, Path, Problems], None]
_SHOWN_FIELDS = 12
_OPEN = object()


class MalformedJsonError(ValueError):
    """The bytes are no JSON document that can be read; the message says why."""


def parse_json(body: bytes) -> Any:
    """Reads one JSON document in UTF-8. Refuses duplicate keys, NaN and Infinity."""
    try:
        return json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse_constant,
        )
    except UnicodeDecodeError as error:
        raise MalformedJsonError(f"is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise MalformedJsonError(f"is not JSON at {where}: {error.msg}") from None
    except RecursionError:
        raise MalformedJsonError("is nested too deep") from None
    except MalformedJsonError:
        raise
    except ValueError:
        raise MalformedJsonError("holds a number with too many digits") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> JsonObject:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise MalformedJsonError(f'has the key "{key}" twice in one object')
            seen.add(key)
    return result


def _refuse_constant(name: str) -> Any:
    raise MalformedJsonError(f"holds {name}, which is not JSON")


class MessageCodec:
    """Both directions of one message type. Get one from `message_codec`."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._descriptor = descriptor
        self._encoders: dict[FieldDescriptor, tuple[str, _Encode | None]] = {}
        self._unset: JsonObject = {}
        self._open: list[tuple[str, Callable[[], Any] | None]] = []
        self._decoders: dict[str, _DecodeInto] = {}

    def _compile(self) -> None:
        # Apart from __init__, because a message type may contain itself.
        for field in self._descriptor.fields:
            self._encoders[field] = field.name, _field_encoder(field)
            self._unset[field.name] = unset = _unset(field)
            if unset is _OPEN:
                self._open.append((field.name, _container(field)))
            self._decoders[field.name] = _field_decoder(field)

    def encode(self, message: Message) -> JsonObject:
        """The JSON object of `message`."""
        result = self._unset.copy()  # so that the keys are in the order of the fields
        for field, value in message.ListFields():
            name, encode = self._encoders[field]
            result[name] = value if encode is None else encode(value)
        for name, container in self._open:
            if result[name] is not _OPEN:
                continue
            if container is None:
                del result[name]
            else:
                result[name] = container()
        return result

    def decode(self, value: object, message: Message, path: Path, problems: Problems) -> None:
        """Reads a JSON object into `message`, noting every problem."""
        if not isinstance(value, dict):
            problems.add(path, "must be an object")
            return
        if problems.too_deep(path):
            return
        for key, item in value.items():
            decode = self._decoders.get(key)
            if decode is None:
                problems.add(path.field(key), self.unknown(key))
            elif not self._is_second_of_oneof(key, item, message, path, problems):
                decode(item, message, path.field(key), problems)

    def unknown(self, name: str) -> str:
        """What to say about a field that does not exist."""
        names = list(self._decoders)
        close = difflib.get_close_matches(name, names, n=1)
        if close:
            return f'is no field of this request; did you mean "{close[0]}"?'
        shown = ", ".join(names[:_SHOWN_FIELDS]) or "none"
        return f"is no field of this request; its fields are: {shown}"

    def _is_second_of_oneof(
        self, name: str, item: object, message: Message, path: Path, problems: Problems
    ) -> bool:
        oneof = self._descriptor.fields_by_name[name].containing_oneof
        if oneof is None or item is None:
            return False
        other = message.WhichOneof(oneof.name)
        if other is None or other == name:
            return False
        problems.add(path.field(name), f'cannot be set together with "{other}"')
        return True


@cache
def message_codec(descriptor: Descriptor) -> MessageCodec:
    """The codec of a message type."""
    codec = _uncompiled(descriptor)
    codec._compile()
    return codec


@cache
def _uncompiled(descriptor: Descriptor) -> MessageCodec:
    return MessageCodec(descriptor)


def encode_message(message: Message) -> Any:
    """The JSON value of any message."""
    descriptor: Any = message.DESCRIPTOR
    return _known_encoder(descriptor)(message)


@cache
def _known_encoder(descriptor: Descriptor) -> _Encode:
    message_codec(descriptor)  # compiled first, it encodes without a detour
    return _message_encoder(descriptor)


def _unset(field: FieldDescriptor) -> Any:
    """What a field shows that is not set; `_OPEN` if that is nothing, or a container."""
    if is_repeated(field) or field.has_presence or field.type == FieldDescriptor.TYPE_ENUM:
        return _OPEN
    if field.type == FieldDescriptor.TYPE_BYTES:
        return ""
    return field.default_value


def _container(field: FieldDescriptor) -> Callable[[], Any] | None:
    """Makes what a field that is not set shows; None if it is left out."""
    if is_map(field):
        return dict
    return list if is_repeated(field) else None


# --- encoding ---------------------------------------------------------------------------------


def _message_encoder(descriptor: Descriptor) -> _Encode:
    if descriptor.full_name == "google.protobuf.Any":
        return _encode_any
    known = wellknown.ENCODERS.get(descriptor.full_name)
    if known is not None:
        return known
    codec = _uncompiled(descriptor)

    def encode(message: Message) -> JsonObject:
        return message_codec(descriptor).encode(message)

    return codec.encode if codec._encoders else encode


def _encode_any(packed: any_pb2.Any) -> JsonObject:
    name = packed.type_url.rpartition("/")[2]
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(name)
        message = message_factory.GetMessageClass(descriptor).FromString(packed.value)
    except (KeyError, DecodeError):
        return {"@type": packed.type_url}
    content = encode_message(message)
    if name in wellknown.ENCODERS:
        return {"@type": packed.type_url, "value": content}
    return {"@type": packed.type_url, **content}


def _value_encoder(field: FieldDescriptor) -> _Encode | None:
    if field.type == FieldDescriptor.TYPE_ENUM:
        return enum_codec(field.enum_type).encode
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return _message_encoder(message_type(field))
    return scalar_encoder(field)


def _field_encoder(field: FieldDescriptor) -> _Encode | None:
    if is_map(field):
        value_encoder = _value_encoder(message_type(field).fields_by_name["value"])
        return lambda entries: {
            _map_key(key): item if value_encoder is None else value_encoder(item)
            for key, item in sorted(entries.items(), key=_by_key)
        }
    encode = _value_encoder(field)
    if not is_repeated(field):
        return encode
    if encode is None:
        return list
    return lambda items: [encode(item) for item in items]


def _by_key(entry: tuple[Any, Any]) -> Any:
    # Protobuf keeps maps in no order; people compare responses.
    return entry[0]


def _map_key(key: object) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


# --- decoding ---------------------------------------------------------------------------------


def _message_decoder(descriptor: Descriptor) -> wellknown.Decoder:
    known = wellknown.DECODERS.get(descriptor.full_name)
    if known is not None:
        return known

    def decode(value: object, message: Message, path: Path, problems: Problems) -> None:
        message_codec(descriptor).decode(value, message, path, problems)

    return decode


def _scalar_or_enum_decoder(field: FieldDescriptor) -> Callable[[object], Any]:
    if field.type != FieldDescriptor.TYPE_ENUM:
        return scalar_decoder(field)
    codec = enum_codec(field.enum_type)

    def decode(value: object) -> int:
        number = codec.decode(value)
        if number is None:
            raise WrongValueError(f"must be one of: {codec.known()}")
        return number

    return decode


def _field_decoder(field: FieldDescriptor) -> _DecodeInto:
    if is_map(field):
        return _map_decoder(field)
    if is_repeated(field):
        return _list_decoder(field)
    name = field.name
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        decode_message = _message_decoder(message_type(field))
        takes_null = message_type(field).full_name == "google.protobuf.Value"

        def into_message(value: Any, message: Message, path: Path, problems: Problems) -> None:
            if value is None and not takes_null:
                return
            child = getattr(message, name)
            child.SetInParent()
            decode_message(value, child, path, problems)

        return into_message

    decode = _scalar_or_enum_decoder(field)

    def into_scalar(value: Any, message: Message, path: Path, problems: Problems) -> None:
        if value is None:
            return
        try:
            setattr(message, name, decode(value))
        except WrongValueError as error:
            problems.add(path, str(error))

    return into_scalar


def _list_decoder(field: FieldDescriptor) -> _DecodeInto:
    name = field.name
    is_message = field.type == FieldDescriptor.TYPE_MESSAGE
    decode_message = _message_decoder(message_type(field)) if is_message else None
    decode_scalar = None if is_message else _scalar_or_enum_decoder(field)

    def into_list(value: Any, message: Message, path: Path, problems: Problems) -> None:
        if value is None:
            return
        if not isinstance(value, list):
            problems.add(path, "must be a list")
            return
        items = getattr(message, name)
        for position, item in enumerate(value):
            try:
                if decode_message is not None:
                    decode_message(item, items.add(), path.index(position), problems)
                elif decode_scalar is not None:
                    items.append(decode_scalar(item))
            except WrongValueError as error:
                problems.add(path.index(position), str(error))

    return into_list


def _map_decoder(field: FieldDescriptor) -> _DecodeInto:
    name = field.name
    key_field = message_type(field).fields_by_name["key"]
    value_field = message_type(field).fields_by_name["value"]
    decode_key = scalar_decoder(key_field)
    is_message = value_field.type == FieldDescriptor.TYPE_MESSAGE
    decode_message = _message_decoder(message_type(value_field)) if is_message else None
    decode_scalar = None if is_message else _scalar_or_enum_decoder(value_field)

    def into_map(value: Any, message: Message, path: Path, problems: Problems) -> None:
        if value is None:
            return
        if not isinstance(value, dict):
            problems.add(path, "must be an object")
            return
        entries = getattr(message, name)
        for key, item in value.items():
            place = path.key(key)
            try:
                number_or_text = decode_key(_json_key(key_field, key))
                if decode_message is not None:
                    decode_message(item, entries[number_or_text], place, problems)
                elif decode_scalar is not None:
                    entries[number_or_text] = decode_scalar(item)
            except WrongValueError as error:
                problems.add(place, str(error))

    return into_map


def _json_key(field: FieldDescriptor, key: str) -> object:
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return {"true": True, "false": False}.get(key, key)
    return key
