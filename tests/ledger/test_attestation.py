"""Attestations: verified by independent implementations of DSSE and in-toto, refused by both after any change."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import json_format  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from in_toto_attestation.v1 import statement_pb2  # type: ignore[import-untyped]
from in_toto_attestation.v1.statement import Statement  # type: ignore[import-untyped]
from securesystemslib.dsse import Envelope
from securesystemslib.signer import Key, SSlibKey  # type: ignore[attr-defined]

from stagezero.errors import AttestationError
from stagezero.ledger import SigningKey, VerifyKey, canonical
from stagezero.ledger.attestation import PAYLOAD_TYPE, make_statement, pae, sign_statement, verify_envelope

AUDITOR = SigningKey.from_seed(b"a" * 32, "auditor.example")
LAB = SigningKey.from_seed(b"l" * 32, "lab.example")
SHA = hashlib.sha256(b"model").hexdigest()
SAID = make_statement({"model": SHA}, "https://example.org/disclosure/v1", {"passed": ["abstention"], "bits": 8.25, "note": "ä", "n": 12})
SEALED = sign_statement(SAID, AUDITOR)


def theirs(key: VerifyKey) -> Key:
    return SSlibKey(key.keyid, "ed25519", "ed25519", {"public": key.raw.hex()})


def they_take(envelope: dict[str, Any]) -> bool:
    """Whether securesystemslib verifies the envelope, its type is right, and in-toto's own library validates the statement."""
    try:
        read = Envelope.from_dict(copy.deepcopy(envelope))
        read.verify([theirs(AUDITOR.verify_key)], 1)
        found = Statement.copy_from_pb(json_format.Parse(read.payload, statement_pb2.Statement()))
        found.validate()
    except Exception:
        return False
    return read.payload_type == PAYLOAD_TYPE


def we_take(envelope: Any) -> bool:
    try:
        verify_envelope(envelope, [AUDITOR.verify_key])
    except AttestationError:
        return False
    return True


def test_independent_implementations_verify_it() -> None:
    assert they_take(SEALED)
    read = Envelope.from_dict(copy.deepcopy(SEALED))
    assert list(read.verify([theirs(AUDITOR.verify_key)], 1)) == [AUDITOR.verify_key.keyid]
    assert read.pae() == pae(PAYLOAD_TYPE, read.payload) and read.payload == canonical(SAID)
    found = Statement.copy_from_pb(json_format.Parse(read.payload, statement_pb2.Statement()))
    found.validate()
    assert found.pb.subject[0].digest["sha256"] == SHA and found.pb.predicate["bits"] == 8.25


def test_what_was_sealed_is_what_is_unsealed() -> None:
    for envelope in (SEALED, json.dumps(SEALED), json.dumps(SEALED, indent=2).encode()):
        assert verify_envelope(envelope, [LAB.verify_key, AUDITOR.verify_key]) == SAID


def test_the_example_of_the_dsse_specification() -> None:
    assert pae("http://example.com/HelloWorld", b"hello world") == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_any_changed_byte_of_payload_signature_or_type_fails_in_both() -> None:
    payload, sig = base64.b64decode(SEALED["payload"]), base64.b64decode(SEALED["signatures"][0]["sig"])
    places: list[tuple[bytes, Callable[[bytes], dict[str, Any]]]] = [
        (payload, lambda d: {**SEALED, "payload": base64.b64encode(d).decode()}),
        (sig, lambda d: {**SEALED, "signatures": [{**SEALED["signatures"][0], "sig": base64.b64encode(d).decode()}]}),
        (PAYLOAD_TYPE.encode(), lambda d: {**SEALED, "payloadType": d.decode("latin-1")}),
    ]
    for whole, put in places:
        for at in range(len(whole)):
            for flip in (1, 0x80):
                changed = put(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
                assert not we_take(changed) and not they_take(changed)
        for other in (whole[:-1], whole + b"x", b""):
            assert not we_take(put(other)) and not they_take(put(other))


def test_any_changed_character_of_its_text_fails() -> None:
    text = json.dumps(SEALED)
    for at in range(len(text)):
        for other in ("A", "=", '"', chr(ord(text[at]) ^ 1)):
            if other != text[at]:
                assert not we_take(text[:at] + other + text[at + 1 :]), at


def signed(payload: bytes, kind: str = PAYLOAD_TYPE) -> dict[str, Any]:
    """An envelope whose signature verifies, of anything at all."""
    signature = {"keyid": AUDITOR.verify_key.keyid, "sig": base64.b64encode(AUDITOR.sign(pae(kind, payload))).decode()}
    return {"payload": base64.b64encode(payload).decode(), "payloadType": kind, "signatures": [signature]}


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (canonical({**SAID, "_type": "https://in-toto.io/Statement/v0.1"}), "_type"),
        (canonical({**SAID, "_type": ["x"]}), "_type"),
        (canonical({**SAID, "subject": []}), "subject: expected at least one"),
        (canonical({k: v for k, v in SAID.items() if k != "subject"}), "subject: expected at least one"),
        (canonical({**SAID, "subject": [1]}), "subject.0.name"),
        (canonical({**SAID, "subject": [{"name": "m"}]}), "subject.0.digest.sha256"),
        (canonical({**SAID, "subject": [{"name": "m", "digest": {"sha256": SHA.upper()}}]}), "subject.0.digest.sha256"),
        (canonical({**SAID, "predicateType": ""}), "predicateType"),
        (canonical({**SAID, "predicate": []}), "predicate: "),
        (b'{"_type":1,' + canonical(SAID)[1:], "occurs twice"),
        (canonical(SAID).replace(b'"n":12', b'"n":NaN'), "finite"),
        (canonical(SAID).replace(b'"n":12', b'"n":1e999'), "finite"),
        (canonical(SAID).replace(b'"n":12', b'"n":' + b"1" * 5000), "plain JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff", "UTF-8"),
        (b"\xef\xbb\xbf{}", "payload"),
        (canonical(SAID).decode().encode("utf-16"), "payload"),
        (b"", "expected JSON"),
        (b"[]", "expected an object"),
    ],
    ids=str,
)
def test_what_is_signed_and_no_statement_is_refused(payload: bytes, why: str) -> None:
    with pytest.raises(AttestationError, match=why):
        verify_envelope(signed(payload), [AUDITOR.verify_key])


def test_what_is_not_a_known_envelope_is_refused() -> None:
    good = SEALED["signatures"][0]
    for envelope, why in (
        ({**SEALED, "more": 1}, "exactly"),
        ({k: v for k, v in SEALED.items() if k != "signatures"}, "exactly"),
        ({**SEALED, "signatures": []}, "1 to 16"),
        ({**SEALED, "signatures": [good] * 17}, "1 to 16"),
        ({**SEALED, "signatures": {"0": good}}, "1 to 16"),
        ({**SEALED, "signatures": [{**good, "cert": "x"}]}, "exactly keyid and sig"),
        ({**SEALED, "signatures": [{**good, "keyid": ["x"]}]}, "exactly keyid and sig"),
        ({**SEALED, "signatures": [good, {"keyid": good["keyid"], "sig": ""}]}, "signatures.1"),
        ({**SEALED, "payload": SEALED["payload"] + "\n"}, "payload: expected base64"),
        ({**SEALED, "payload": "\ud800"}, "payload: expected base64"),
        ({**SEALED, "payload": 1}, "payload: expected base64"),
        (signed(canonical(SAID), "text/plain"), "payloadType"),
        ({**SEALED, "payloadType": None}, "payloadType"),
        (json.dumps(SEALED)[:-1] + ', "payload": ""}', "occurs twice"),
        ("[1, 2]", "exactly"),
        (None, "exactly"),
        (3, "exactly"),
    ):
        with pytest.raises(AttestationError, match=why):
            verify_envelope(envelope, [AUDITOR.verify_key])  # type: ignore[arg-type]


def test_unknown_keys_say_nothing_and_a_bad_signature_of_a_known_one_spoils_it() -> None:
    for keys in ([], [LAB.verify_key]):
        with pytest.raises(AttestationError, match="got none"):
            verify_envelope(SEALED, keys)
    both = {**SEALED, "signatures": [*sign_statement(SAID, LAB)["signatures"], *SEALED["signatures"]]}
    assert verify_envelope(both, [AUDITOR.verify_key]) == verify_envelope(both, [LAB.verify_key]) == SAID and they_take(both)
    swapped = {**SEALED, "signatures": [{**SEALED["signatures"][0], "keyid": LAB.verify_key.keyid}]}
    with pytest.raises(AttestationError, match="did not sign"):
        verify_envelope(swapped, [LAB.verify_key, AUDITOR.verify_key])


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v))
)
def test_any_value_anywhere_gives_one_error_or_nothing(value: Any) -> None:
    assert not we_take(value)
    for field in SEALED:
        assert not we_take({**SEALED, field: value})
    assert not we_take({**SEALED, "signatures": [value]})
    assert not we_take(signed(json.dumps(value).encode("utf-8", errors="surrogatepass")))
    we_take(signed(json.dumps({**SAID, "predicate": value, "subject": [value]}).encode()))


@settings(max_examples=200, deadline=None)
@given(st.binary())
def test_any_bytes_give_one_error(data: bytes) -> None:
    assert not we_take(data) and not we_take(signed(data))


def test_only_statements_are_made_and_sealed() -> None:
    for subjects, kind, predicate in (({}, "t", {"a": 1}), ({"m": "12"}, "t", {"a": 1}), ({"m": SHA}, "", {"a": 1}), ({"m": SHA}, "t", {})):
        with pytest.raises(AttestationError, match="statement"):
            make_statement(subjects, kind, predicate)
    for value in (float("nan"), 2**60, object()):
        with pytest.raises(AttestationError, match="canonical JSON"):
            sign_statement({**SAID, "predicate": {"a": value}}, AUDITOR)
    with pytest.raises(AttestationError, match="by their digest"):
        sign_statement({**SAID, "predicate": {"a": "x" * (1 << 22)}}, AUDITOR)
    with pytest.raises(AttestationError, match="_type"):
        sign_statement({}, AUDITOR)
